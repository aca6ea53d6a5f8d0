#include "actors/sim/workload.h"

#include "gpu/model/mapped_file.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <random>
#include <utility>

namespace troupe {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{1} << 30;
constexpr int64_t kMaxTokens = 100'000'000'000;
constexpr int32_t kMaxLength = 1 << 26;
constexpr int32_t kDefaultRequests = 1000;
constexpr int32_t kDefaultMaxTokens = 4096;

Error refuse(const std::string& message, const std::string& option = "--workload") {
  return fail(ErrorCode::kInvalidArgument, message, option);
}

struct Range {
  int64_t least = 0, most = 0;
};

/// "100" or "100-200"; empty when it is neither.
std::optional<Range> parse_range(std::string_view text) {
  Range range;
  const char* end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, range.least);
  if (first.ec != std::errc{}) return std::nullopt;
  range.most = range.least;
  if (first.ptr != end) {
    if (*first.ptr != '-') return std::nullopt;
    const auto second = std::from_chars(first.ptr + 1, end, range.most);
    if (second.ec != std::errc{} || second.ptr != end) return std::nullopt;
  }
  if (range.least < 1 || range.most < range.least) return std::nullopt;
  return range;
}

/// A distribution given by quantiles; between them the logarithm grows linearly.
struct Quantiles {
  std::array<double, 6> at;
  std::array<double, 6> length;
  int32_t draw(std::mt19937_64& random) const {
    const double u = std::uniform_real_distribution<double>(0, 1)(random);
    size_t i = 1;
    while (i + 1 < at.size() && u > at[i]) ++i;
    const double part = (u - at[i - 1]) / (at[i] - at[i - 1]);
    const double log_length = std::log(length[i - 1]) * (1 - part) + std::log(length[i]) * part;
    return std::max(1, static_cast<int32_t>(std::lround(std::exp(log_length))));
  }
};

// Chosen to match the means that published ShareGPT benchmarks state (about 220 in, 190 out).
constexpr Quantiles kChatIn = {{0, 0.25, 0.5, 0.75, 0.99, 1}, {4, 18, 58, 230, 1450, 2000}};
constexpr Quantiles kChatOut = {{0, 0.25, 0.5, 0.75, 0.99, 1}, {2, 48, 128, 290, 820, 1500}};
// Quantiles published for ShareGPT prompts answered by a reasoning model.
constexpr Quantiles kReasonIn = {{0, 0.25, 0.5, 0.9, 0.99, 1}, {10, 70, 209, 900, 2594, 4500}};
constexpr Quantiles kReasonOut = {{0, 0.1, 0.5, 0.9, 0.99, 1}, {60, 620, 1954, 3872, 6428, 10935}};

/// Arrival times of a Poisson process, in order.
void poisson(Workload& workload, double rate, std::mt19937_64& random) {
  std::exponential_distribution<double> gap(rate);
  double now = 0;
  for (WorkloadRequest& r : workload.requests) {
    now += gap(random);
    r.arrival_s = now;
  }
}

Result<Workload> make_random(const std::string& spec, int32_t count, int32_t cap,
                             std::mt19937_64& random) {
  const std::string_view lengths = std::string_view(spec).substr(7);
  const size_t slash = lengths.find('/');
  const auto in = parse_range(lengths.substr(0, slash));
  const auto out =
      slash == std::string_view::npos ? std::nullopt : parse_range(lengths.substr(slash + 1));
  if (!in || !out) {
    return refuse("'" + printable(spec) +
                  "' is no workload; lengths are random:1000/1000 or random:32-4000/2-4000");
  }
  if (in->most > kMaxLength || out->most > kMaxLength) {
    return refuse("'" + printable(spec) + "': no model has a context of that many tokens");
  }
  const bool known = out->least == out->most;
  std::uniform_int_distribution<int32_t> prompt(static_cast<int32_t>(in->least),
                                                static_cast<int32_t>(in->most));
  std::uniform_int_distribution<int32_t> answer(static_cast<int32_t>(out->least),
                                                static_cast<int32_t>(out->most));
  Workload workload;
  workload.requests.reserve(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) {
    WorkloadRequest r;
    r.prompt_tokens = prompt(random);
    r.output_tokens = answer(random);
    r.max_tokens = known ? r.output_tokens : std::max(r.output_tokens, cap);
    workload.requests.push_back(r);
  }
  return workload;
}

Workload make_quantiles(const Quantiles& in, const Quantiles& out, int32_t count, int32_t cap,
                        std::mt19937_64& random) {
  Workload workload;
  workload.requests.reserve(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) {
    WorkloadRequest r;
    r.prompt_tokens = in.draw(random);
    r.output_tokens = out.draw(random);
    r.max_tokens = std::max(r.output_tokens, cap);
    workload.requests.push_back(r);
  }
  return workload;
}

Result<Workload> read_file(const std::string& path, const WorkloadOptions& options) {
  const auto text = read_small_file(path, kMaxFileBytes);
  if (!text) {
    if (text.error().code != ErrorCode::kNotFound) return text.error();
    return fail(ErrorCode::kNotFound,
                "'" + printable(path) +
                    "' is neither a file nor random:I/O, sharegpt-like or reasoning-like",
                "--workload");
  }
  auto workload = parse_workload(*text, path);
  if (!workload || options.requests == 0) return workload;
  if (static_cast<size_t>(options.requests) > workload->requests.size()) {
    return refuse(path + " has " + std::to_string(workload->requests.size()) +
                      " requests, not the " + std::to_string(options.requests) + " asked for",
                  "--requests");
  }
  workload->requests.resize(static_cast<size_t>(options.requests));
  return workload;
}

/// What holds for every workload: each request fits the context, the whole is not absurd.
Status check(const Workload& workload, const WorkloadOptions& options) {
  int64_t total = 0;
  for (size_t i = 0; i < workload.requests.size(); ++i) {
    const WorkloadRequest& r = workload.requests[i];
    const int64_t length = int64_t{r.prompt_tokens} + r.output_tokens;
    total += length;
    if (length > options.max_context) {
      return refuse("request " + std::to_string(i + 1) + " of " + workload.name + " has " +
                    std::to_string(length) + " tokens, the model's context is " +
                    std::to_string(options.max_context));
    }
  }
  if (total > kMaxTokens) {
    return refuse(workload.name + " has " + std::to_string(total) +
                      " tokens; more than 10^11 are not simulated: use fewer --requests",
                  "--requests");
  }
  return ok_status();
}

}  // namespace

Result<Workload> make_workload(const std::string& spec, const WorkloadOptions& options) {
  std::mt19937_64 random(options.seed);
  const int32_t count = options.requests > 0 ? options.requests : kDefaultRequests;
  const int32_t cap = options.max_tokens > 0 ? options.max_tokens : kDefaultMaxTokens;
  Result<Workload> made = Workload{};
  if (spec.starts_with("random:")) {
    made = make_random(spec, count, cap, random);
  } else if (spec == "sharegpt-like") {
    made = make_quantiles(kChatIn, kChatOut, count, cap, random);
  } else if (spec == "reasoning-like") {
    made = make_quantiles(kReasonIn, kReasonOut, count, cap, random);
  } else {
    made = read_file(spec, options);
  }
  if (!made) return made;
  made->name = spec;
  if (const Status fits = check(*made, options); !fits) return fits.error();
  for (WorkloadRequest& r : made->requests) {
    r.max_tokens = std::min(r.max_tokens, options.max_context - r.prompt_tokens);
  }
  if (options.rate > 0) poisson(*made, options.rate, random);
  return made;
}

}  // namespace troupe
