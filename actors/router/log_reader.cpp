#include "actors/router/log_reader.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace troupe {
namespace {

using log::Kind;

constexpr int32_t kMax = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxTime = int64_t{1} << 60;
constexpr int32_t kMaxSlots = 1 << 26;
constexpr int32_t kMaxRows = 1 << 20;

}  // namespace

Error LogReader::refuse(size_t at, const std::string& what) const {
  return fail(ErrorCode::kInvalidArgument,
              source_ + ": " + what + " at byte " + std::to_string(at));
}

// Notes the first problem of a record; reading goes on harmlessly until the record's end.
void LogReader::bad(const char* what) {
  if (problem_ == nullptr) problem_ = what;
}

uint8_t LogReader::byte() {
  if (at_ >= bytes_.size()) {
    cut_short_ = true;
    return 0;
  }
  return static_cast<uint8_t>(bytes_[at_++]);
}

uint64_t LogReader::number() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const uint8_t next = byte();
    value |= static_cast<uint64_t>(next & 0x7F) << shift;
    if ((next & 0x80) == 0) return value;
  }
  bad("a number without end");
  return 0;
}

int64_t LogReader::integer() {
  const uint64_t v = number();
  return static_cast<int64_t>(v >> 1) ^ -static_cast<int64_t>(v & 1);
}

int32_t LogReader::integer(int32_t least, int32_t most) {
  const int64_t v = integer();
  if (v >= least && v <= most) return static_cast<int32_t>(v);
  bad("a number out of range");
  return least;
}

uint32_t LogReader::word() {
  uint32_t v = 0;
  for (int i = 0; i < 4; ++i) v |= static_cast<uint32_t>(byte()) << (8 * i);
  return v;
}

float LogReader::real() { return std::bit_cast<float>(word()); }

double LogReader::real64() {
  const uint64_t low = word();
  const double v = std::bit_cast<double>(static_cast<uint64_t>(word()) << 32 | low);
  if (!(v >= 0 && v <= 1e18)) bad("a number out of range");
  return v;
}

// How many elements follow: no more than the bytes that are left could hold.
size_t LogReader::count(size_t least_bytes_each) {
  const uint64_t n = number();
  if (n <= (bytes_.size() - at_) / least_bytes_each) return static_cast<size_t>(n);
  cut_short_ = true;
  return 0;
}

void LogReader::list(std::vector<int32_t>& out) {
  out.resize(count(1));
  for (int32_t& v : out) v = integer(std::numeric_limits<int32_t>::min(), kMax);
}

Result<LogReader> LogReader::open(std::string_view bytes, std::string source) {
  LogReader reader(bytes, std::move(source));
  if (!bytes.starts_with(log::kMagic)) return reader.refuse(0, "not a router log");
  reader.at_ = log::kMagic.size();
  const uint8_t version = reader.byte();
  if (version != log::kVersion && !reader.cut_short_) {
    return reader.refuse(reader.at_ - 1, "a log of version " + std::to_string(version) +
                                             ", this program reads version " +
                                             std::to_string(log::kVersion));
  }
  reader.header();
  if (reader.cut_short_) return reader.refuse(reader.at_, "the log is cut short");
  if (reader.problem_ != nullptr) return reader.refuse(reader.at_, reader.problem_);
  return reader;
}

void LogReader::header() {
  auto& [context, queue, queue_tokens, step_tokens, in_flight, ahead, timeout, overtakes, cache,
         slowdown, chunk, demote, share, step_timeout, weights] = limits_;
  context = integer(1, kMax);
  queue = integer(0, kMax);
  queue_tokens = integer();
  step_tokens = integer(1, kMax);
  in_flight = integer(1, 64);
  ahead = integer(0, kMax);
  timeout = integer();
  overtakes = integer(0, kMax);
  cache = integer(0, 1) != 0;
  chunk = integer(0, kMax);
  demote = integer(0, 1) != 0;
  share = integer(0, 1) != 0;
  step_timeout = integer();
  slowdown = real64();
  for (size_t n = count(9); n > 0 && !cut_short_; --n) {
    const uint64_t tenant = number();
    weights[tenant] = real64();
  }
}

Result<LogEvent> LogReader::next() {
  const size_t begin = at_;
  LogEvent event;
  const uint8_t tag = byte();
  event.kind = static_cast<Kind>(tag & log::kKindMask);
  if ((tag & log::kSameTime) == 0) {
    const int64_t step = integer();
    if (step < -kMaxTime || step > kMaxTime || last_ + step > kMaxTime || last_ + step < 0) {
      bad("a time out of range");
    } else {
      last_ += step;
    }
  }
  event.now = last_;
  switch (event.kind) {
    case Kind::kEnd: break;
    case Kind::kSubmit: submit(event, tag); break;
    case Kind::kCancel:
    case Kind::kFinish: event.id = number(); break;
    case Kind::kReplicaReady: replica_ready(event); break;
    case Kind::kReplicaLost: event.job = number(); break;
    case Kind::kApply: apply(event, tag); break;
    case Kind::kTick:
    case Kind::kDrain:
    case Kind::kResetCache: break;
    case Kind::kPlan:
      event.nothing = (tag & log::kNothing) != 0;
      if (!event.nothing) event.digest = word();
      break;
    default: bad("an unknown record"); break;
  }
  if (cut_short_) return refuse(begin, "the log is cut short in the record");
  if (problem_ != nullptr) return refuse(begin, problem_);
  if (event.kind == Kind::kEnd && at_ < bytes_.size()) return refuse(at_, "bytes after the end");
  return event;
}

void LogReader::submit(LogEvent& event, uint8_t flags) {
  auto& [id, prompt, sampling, max_tokens, stop_tokens, submitted, deadline, priority, tenant, salt,
         endpoint, ttft, tpot] = event.request;
  id = number();
  max_tokens = integer(-1, kMax);
  const int64_t age = integer();
  const int64_t allowance = integer();
  if (age < -kMaxTime || age > kMaxTime || allowance < -kMaxTime || allowance > kMaxTime) {
    return bad("a time out of range");
  }
  submitted = event.now - age;
  deadline = allowance == 0 ? 0 : submitted + allowance - 1;
  list(prompt);
  list(stop_tokens);
  if (!cut_short_ && !requests_.insert(id).second) bad("a request that was there before");
  read_sampling(sampling, (flags & log::kNeutralSampling) != 0);
  if ((flags & log::kNeutralRequest) != 0) return;
  priority = integer(std::numeric_limits<int32_t>::min(), kMax);
  endpoint = integer(std::numeric_limits<int32_t>::min(), kMax);
  ttft = integer();
  tpot = integer();
  if (ttft < 0 || ttft > kMaxTime || tpot < 0 || tpot > kMaxTime) bad("a time out of range");
  tenant = number();
  salt = number();
}

void LogReader::read_sampling(SamplingParams& p, bool seed_only) {
  p.seed = number();
  if (seed_only) return;
  for (float* v : {&p.temperature, &p.top_p, &p.min_p, &p.repetition_penalty, &p.presence_penalty,
                   &p.frequency_penalty}) {
    *v = real();
  }
  for (int32_t* v : {&p.top_k, &p.n_logprobs, &p.min_tokens}) *v = integer(-1, kMax);
  p.logit_bias.resize(count(5));
  for (LogitBias& bias : p.logit_bias) {
    bias.token = integer(0, kMax);
    bias.bias = real();
  }
  list(p.stop_tokens);
}

void LogReader::replica_ready(LogEvent& event) {
  auto& [job, n_ranks, n_slots, max_rows, max_step_tokens] = event.replica;
  job = number();
  n_ranks = integer(1, kMaxRows);
  n_slots = integer(1, kMaxSlots);
  max_rows = integer(1, kMaxRows);
  max_step_tokens = integer(1, kMax);
  if (job == 0) bad("a replica without a name");
  for (const auto& [number, other] : jobs_) {
    if (other.id == job && !other.lost) bad("a replica that is there already");
  }
  // The router counts epochs from 1, one for each replica.
  jobs_[n_jobs_] = {job, n_jobs_ + 1, 0, false};
  ++n_jobs_;
  n_ranks = 1;  // only rank 0's reports are in the log
}

void LogReader::apply(LogEvent& event, uint8_t flags) {
  if ((flags & log::kSameJob) == 0) last_job_ = number();
  const auto found = jobs_.find(last_job_);
  if (found == jobs_.end()) return bad("a step of an unknown replica");
  Job& job = found->second;
  StepResult& result = event.result;
  event.job = job.id;
  result.epoch = job.epoch;
  result.step = (flags & log::kNextStep) != 0 ? job.last_step + 1 : number();
  job.last_step = result.step;
  result.digest = result.step;
  result.timings.compute_us = static_cast<uint32_t>(number());
  result.timings.idle_us = static_cast<uint32_t>(number());
  result.sampled.resize(count(2));
  int64_t row = 0;
  for (SampledToken& t : result.sampled) {
    row += integer();
    if (row < 0 || row > kMaxRows) return bad("a row out of range");
    t.row = static_cast<int32_t>(row++);
    t.token = integer(0, kMax);
    t.failed = (flags & log::kFailures) != 0 && byte() != 0;
  }
}

}  // namespace troupe
