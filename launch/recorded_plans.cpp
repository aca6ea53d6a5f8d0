#include "launch/recorded_plans.h"

#include "actors/router/replay.h"
#include "gpu/model/mapped_file.h"

#include <cstdint>
#include <string_view>
#include <utility>

namespace troupe {
namespace {

constexpr Micros kPause = 10'000;  // that separates loads

/// Cuts the decisions of a log into loads.
class Loads {
 public:
  void see(const ReplayedDecision& made) {
    const Decision& d = *made.decision;
    if (d.plans.empty() && d.updates.empty()) return;
    if (running_ == 0 && made.now - last_ > kPause) loads_.emplace_back();
    if (loads_.empty()) loads_.emplace_back();
    RecordedLoad& load = loads_.back();
    for (const auto& [job, plan] : d.plans) {
      one_job_ = one_job_ && (job_ == 0 || job == job_);
      job_ = job;
      if (load.plans.empty()) began_ = made.now;
      load.plans.push_back(plan);
    }
    for (const RequestUpdate& u : d.updates) {
      running_ += u.kind == RequestUpdate::Kind::kAccepted ? 1 : 0;
      running_ -= u.kind == RequestUpdate::Kind::kFinished ? 1 : 0;
    }
    last_ = made.now;
    if (!load.plans.empty()) load.seconds = static_cast<double>(last_ - began_) * 1e-6;
  }
  [[nodiscard]] bool one_job() const { return one_job_; }
  std::vector<RecordedLoad> take() {
    std::erase_if(loads_, [](const RecordedLoad& load) { return load.plans.empty(); });
    return std::move(loads_);
  }

 private:
  std::vector<RecordedLoad> loads_;
  int64_t running_ = 0;  // requests
  uint64_t job_ = 0;
  bool one_job_ = true;
  Micros began_ = 0;
  Micros last_ = 0;
};

}  // namespace

Result<std::vector<RecordedLoad>> read_recorded_loads(const std::string& path) {
  const auto file = MappedFile::open(path);
  if (!file) return file.error();
  const std::string_view bytes(reinterpret_cast<const char*>(file->bytes().data()),
                               file->bytes().size());
  Loads loads;
  const auto report =
      replay(bytes, path, true, [&](const ReplayedDecision& made) { loads.see(made); });
  if (!report) return report.error();
  if (report->differing > 0)
    return fail(ErrorCode::kInvalidArgument,
                path + ": this build decides differently; replay it with the one that wrote it");
  if (!loads.one_job())
    return fail(ErrorCode::kInvalidArgument,
                path + ": has more than one replica; record a service with one");
  return loads.take();
}

}  // namespace troupe
