#include "actors/router/replay.h"

#include "actors/router/log_reader.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace troupe {
namespace {

using log::Kind;

const char* name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop: return "stop";
    case FinishReason::kLength: return "length";
    case FinishReason::kCancelled: return "cancelled";
    case FinishReason::kError: return "error";
  }
  return "?";
}

std::string describe(const StepPlan& plan, uint64_t job) {
  int64_t decodes = 0;
  int64_t chunks = 0;
  int64_t prefill = 0;
  for (const RowWork& work : plan.work) {
    if (work.n_tokens == 1) {
      ++decodes;
    } else {
      ++chunks;
      prefill += work.n_tokens;
    }
  }
  std::string text = "  plan job " + std::to_string(job) + " step " + std::to_string(plan.step) +
                     ": " + std::to_string(decodes) + " single tokens, " + std::to_string(prefill) +
                     " tokens in " + std::to_string(chunks) + " chunks";
  for (const OpenRow& row : plan.opened) {
    text += ", opens row " + std::to_string(row.row) + " (" +
            std::to_string(row.prefix_slots.size()) + " cached)";
  }
  for (const int32_t row : plan.closed) text += ", closes row " + std::to_string(row);
  return text + "\n";
}

/// Gives the router the event. False when the router refuses a result.
bool feed(Router& router, LogEvent& event) {
  switch (event.kind) {
    case Kind::kSubmit: router.submit(std::move(event.request), event.now); break;
    case Kind::kCancel: router.cancel(event.id, event.now); break;
    case Kind::kFinish: router.finish(event.id, event.now); break;
    case Kind::kReplicaReady: router.replica_ready(event.replica, event.now); break;
    case Kind::kReplicaLost: router.replica_lost(event.job, event.now); break;
    case Kind::kApply: return router.apply(event.job, 0, event.result, event.now).ok();
    case Kind::kTick: router.tick(event.now); break;
    case Kind::kDrain: router.drain(); break;
    case Kind::kResetCache: router.reset_prefix_cache(); break;
    case Kind::kPlan:
    case Kind::kEnd: break;
  }
  return true;
}

}  // namespace

std::string describe(const ReplayedDecision& d) {
  char digest[16];
  std::snprintf(digest, sizeof(digest), "%08x", d.digest);
  std::string text = "decision " + std::to_string(d.index) + " at " + std::to_string(d.now) +
                     " us, digest " + digest + (d.same ? "" : ", DIFFERS from the recorded one") +
                     "\n";
  for (const auto& [job, plan] : d.decision->plans) text += describe(plan, job);
  for (const RequestUpdate& u : d.decision->updates) {
    text += "  request " + std::to_string(u.id);
    switch (u.kind) {
      case RequestUpdate::Kind::kAccepted:
        text += " accepted, " + std::to_string(u.prompt_tokens) + " tokens";
        break;
      case RequestUpdate::Kind::kTokens:
        for (const SampledToken& t : u.tokens) text += " token " + std::to_string(t.token);
        break;
      case RequestUpdate::Kind::kFinished:
        text += std::string(" ends: ") + name_of(u.reason);
        if (!u.error.message.empty()) text += ", " + u.error.message;
        break;
    }
    text += "\n";
  }
  return text;
}

Result<ReplayReport> replay(std::string_view bytes, const std::string& source, bool partial,
                            const std::function<void(const ReplayedDecision&)>& watch) {
  auto reader = LogReader::open(bytes, source);
  if (!reader) return reader.error();
  Router router(reader->limits());
  ReplayReport report;
  uint64_t refused = 0;  // the job whose result was refused: it must be lost next
  for (;;) {
    const size_t at = reader->offset();
    auto event = reader->next();
    if (!event) {
      if (partial && reader->cut_short()) return report;
      return event.error();
    }
    if (event->kind == Kind::kEnd) return report;
    ++report.events;
    if (refused != 0 && (event->kind != Kind::kReplicaLost || event->job != refused)) {
      return fail(ErrorCode::kInvalidArgument,
                  source + ": a result that fits no plan before byte " + std::to_string(at));
    }
    refused = 0;
    if (event->kind == Kind::kSubmit) ++report.requests;
    if (event->kind != Kind::kPlan) {
      if (feed(router, *event)) continue;
      if (report.differing > 0) {
        report.diverged = true;
        report.diverged_at = report.decisions;
        return report;
      }
      refused = event->job;
      continue;
    }
    const Decision decision = router.plan(event->now);
    ReplayedDecision made;
    made.index = report.decisions++;
    made.now = event->now;
    made.decision = &decision;
    made.digest = log::is_empty(decision) ? 0 : log::decision_digest(decision);
    made.recorded = event->nothing ? 0 : event->digest;
    made.same = made.digest == made.recorded && log::is_empty(decision) == event->nothing;
    if (!made.same && report.differing++ == 0) report.first_difference = made.index;
    for (const auto& [job, plan] : decision.plans) report.computed_tokens += plan.slots.size();
    if (watch) watch(made);
  }
}

}  // namespace troupe
