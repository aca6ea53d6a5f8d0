#include "tests/bench/router_policies.h"

#include <algorithm>
#include <cstddef>
#include <functional>

namespace troupe::bench {
namespace {

template <class Total>
int64_t peak_of(const std::vector<SimRequest*>& running, const SimRequest& next,
                const Total& total_output) {
  std::vector<std::pair<int64_t, int64_t>> set;
  const auto add = [&](const SimRequest& r) {
    const int64_t left = std::max<int64_t>(0, total_output(r) - r.done);
    set.emplace_back(left, r.input + r.done);
  };
  for (const SimRequest* r : running) add(*r);
  add(next);
  return peak(std::move(set));
}

}  // namespace

int64_t peak(std::vector<std::pair<int64_t, int64_t>> set) {
  std::sort(set.begin(), set.end(), std::greater<>());
  int64_t held = 0;
  int64_t most = 0;
  for (size_t i = 0; i < set.size(); ++i) {
    held += set[i].second;
    most = std::max(most, set[i].first * static_cast<int64_t>(i + 1) + held);
  }
  return most;
}

bool Oracle::admits(const std::vector<SimRequest*>& running, const SimRequest& next,
                    int64_t n_slots) {
  return peak_of(running, next, [](const SimRequest& r) { return r.true_output; }) <= n_slots;
}

bool LightLlmDefault::admits(const std::vector<SimRequest*>& running, const SimRequest& next,
                             int64_t n_slots) {
  return peak_of(running, next, [](const SimRequest& r) { return r.max_tokens; }) < n_slots;
}

bool LightLlmAggressive::admits(const std::vector<SimRequest*>& running, const SimRequest& next,
                                int64_t n_slots) {
  return peak_of(running, next, [](const SimRequest& r) {
           return std::min(r.max_tokens, std::max(r.done * 11 / 10, 1024));
         }) < n_slots;
}

bool Watermark::admits(const std::vector<SimRequest*>& running, const SimRequest& next,
                       int64_t n_slots) {
  int64_t held = 0;
  for (const SimRequest* r : running) held += std::max(r->input + r->done, r->computed);
  return held + next.input + next.done <= n_slots - n_slots / 100;
}

bool PastFuture::admits(const std::vector<SimRequest*>& running, const SimRequest& next,
                        int64_t n_slots) {
  constexpr size_t kWindow = 200;
  if (history_.empty()) history_.assign(kWindow / 2, next.max_tokens);
  const auto draw = [&](const SimRequest& r) -> int64_t {
    std::vector<int32_t> longer = {r.done};
    for (const int32_t h : history_) {
      if (h > r.done) longer.push_back(h);
    }
    std::sort(longer.begin(), longer.end());
    if (r.done == 0) {
      return history_[std::uniform_int_distribution<size_t>(0, history_.size() - 1)(random_)];
    }
    if (longer.size() == 1) return r.max_tokens;
    const double at =
        std::uniform_real_distribution<double>(0, static_cast<double>(longer.size() - 1))(random_);
    const auto i = static_cast<size_t>(at);
    const double part = at - static_cast<double>(i);
    return static_cast<int64_t>(longer[i] +
                                part * (longer[std::min(i + 1, longer.size() - 1)] - longer[i]));
  };
  const size_t samples = std::min<size_t>(5, 200 / (running.size() + 1) + 1);
  int64_t most = 0;
  for (size_t k = 0; k < samples; ++k) {
    most = std::max(most, peak_of(running, next, [&](const SimRequest& r) {
                      return std::min<int64_t>(r.max_tokens, draw(r));
                    }));
  }
  return most < n_slots - n_slots / 20;
}

void PastFuture::ended(int32_t output) {
  history_.push_back(output);
  if (history_.size() > 200) history_.pop_front();
}

SimReport simulate(AdmissionPolicy& policy, const Workload& workload, int64_t n_slots,
                   int32_t max_rows, int32_t step_tokens, const StepCost& cost) {
  std::vector<SimRequest> all;
  for (const Job& job : workload.jobs) {
    all.push_back({job.input, 0, job.max_tokens, job.output, 0});
  }
  std::deque<SimRequest*> waiting;
  for (SimRequest& r : all) waiting.push_back(&r);
  std::vector<SimRequest*> running;  // oldest first
  SimReport report;
  double micros = 0;
  double use = 0;
  while (!waiting.empty() || !running.empty()) {
    while (!waiting.empty() && static_cast<int32_t>(running.size()) < max_rows &&
           (running.empty() || policy.admits(running, *waiting.front(), n_slots))) {
      running.push_back(waiting.front());
      waiting.pop_front();
    }
    int64_t held = 0;
    for (const SimRequest* r : running) held += r->computed;
    const auto evict_youngest = [&] {
      SimRequest* victim = running.back();
      running.pop_back();
      held -= victim->computed;
      victim->computed = 0;
      waiting.push_front(victim);
      ++report.evictions;
    };
    const auto decodes = [](const SimRequest* r) { return r->computed >= r->input + r->done - 1; };
    // Decodes that must find a slot each; a request that has prefilled all but its last known
    // token decodes.
    while (running.size() > 1) {
      const auto n = std::count_if(running.begin(), running.end(), decodes);
      if (held + n <= n_slots) break;
      evict_youngest();
    }
    StepShape shape;
    int32_t budget = step_tokens;
    std::vector<SimRequest*> sampled;
    for (SimRequest* r : running) {
      if (!decodes(r) || budget == 0) continue;
      ++shape.decodes;
      shape.decode_context += r->computed + 1;
      ++r->computed;
      ++held;
      --budget;
      sampled.push_back(r);
    }
    for (SimRequest* r : running) {
      const int32_t owed = r->input + r->done - r->computed;
      if (std::find(sampled.begin(), sampled.end(), r) != sampled.end() || owed <= 0) continue;
      const auto n = static_cast<int32_t>(std::min<int64_t>({owed, budget, n_slots - held}));
      if (n <= 0) break;
      shape.prefill += n;
      shape.prefill_context += int64_t{n} * (r->computed + n / 2);
      r->computed += n;
      held += n;
      budget -= n;
      if (n == owed) sampled.push_back(r);
    }
    for (SimRequest* r : sampled) ++r->done;
    micros += cost(shape);
    ++report.steps;
    report.computed += shape.decodes + shape.prefill;
    report.prefilled += shape.prefill;
    use += static_cast<double>(held) / static_cast<double>(n_slots);
    std::erase_if(running, [&](const SimRequest* r) {
      if (r->done < r->true_output) return false;
      policy.ended(r->done);
      return true;
    });
  }
  report.seconds = micros * 1e-6;
  report.pool_use = use / static_cast<double>(report.steps);
  return report;
}

}  // namespace troupe::bench
