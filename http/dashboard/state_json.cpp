#include "http/dashboard/state_json.h"

#include "http/api/json_writer.h"

#include <initializer_list>
#include <string_view>
#include <utility>

namespace troupe {
namespace {

void numbers(std::string& out, std::initializer_list<int64_t> values) {
  out += '[';
  for (const int64_t value : values) {
    if (out.back() != '[') out += ',';
    append_json_number(out, value);
  }
  out += ']';
}

/// `"name":value` members, the first without a comma before it.
void members(std::string& out, std::initializer_list<std::pair<std::string_view, int64_t>> values) {
  for (const auto& [name, value] : values) {
    if (out.back() != '{') out += ',';
    append_json_string(out, name);
    out += ':';
    append_json_number(out, value);
  }
}

template <class T, class Write>
void list(std::string& out, std::string_view name, const std::vector<T>& items, Write write) {
  if (out.back() != '{') out += ',';
  append_json_string(out, name);
  out += ":[";
  for (const T& item : items) {
    if (out.back() != '[') out += ',';
    write(item);
  }
  out += ']';
}

void cells(std::string& out, const std::vector<EngineSnapshot::Cell>& all) {
  out += R"(,"cells":[)";
  for (size_t i = 0; i < all.size();) {
    size_t end = i + 1;
    while (end < all.size() && all[end].owner == all[i].owner && all[end].used == all[i].used) {
      ++end;
    }
    if (i > 0) out += ',';
    append_json_number(out, static_cast<int64_t>(end - i));
    out += ',';
    append_json_number(out, all[i].owner);
    out += ',';
    append_json_number(out, all[i].used);
    i = end;
  }
  out += ']';
}

std::string_view reason(EngineSnapshot::Wait why) {
  switch (why) {
    case EngineSnapshot::Wait::kNoReplica: return "no_replica";
    case EngineSnapshot::Wait::kPool: return "pool";
    case EngineSnapshot::Wait::kRows: return "rows";
    case EngineSnapshot::Wait::kTargets: return "targets";
    case EngineSnapshot::Wait::kSlots: return "slots";
    case EngineSnapshot::Wait::kOrder: return "order";
  }
  return "order";
}

void stats_member(std::string& out, const EngineStats& s) {
  out += R"(,"stats":{)";
  members(out, {{"ready", s.ready ? 1 : 0},
                {"draining", s.draining ? 1 : 0},
                {"queued", s.queued},
                {"running", s.running},
                {"paused", s.paused},
                {"slots_total", s.slots_total},
                {"slots_used", s.slots_used},
                {"slots_cached", s.slots_cached},
                {"accepted", static_cast<int64_t>(s.requests_accepted)},
                {"rejected", static_cast<int64_t>(s.requests_rejected)},
                {"prompt_tokens", static_cast<int64_t>(s.prompt_tokens)},
                {"cached_prompt_tokens", static_cast<int64_t>(s.cached_prompt_tokens)},
                {"output_tokens", static_cast<int64_t>(s.output_tokens)},
                {"steps", static_cast<int64_t>(s.steps)},
                {"pauses", static_cast<int64_t>(s.pauses)},
                {"replicas_lost", static_cast<int64_t>(s.replicas_lost)},
                {"busy_us", static_cast<int64_t>(s.device_busy_us)},
                {"idle_us", static_cast<int64_t>(s.device_idle_us)}});
  out += '}';
}

}  // namespace

std::string dashboard_state_json(const EngineSnapshot& snapshot, const EngineStats& stats,
                                 const ModelInfo& model) {
  std::string out = R"({"model":)";
  append_json_string(out, model.id);
  members(out, {{"now", snapshot.now}, {"waiting_total", snapshot.waiting_total}});
  stats_member(out, stats);
  list(out, "replicas", snapshot.replicas, [&out](const EngineSnapshot::Replica& r) {
    out += '{';
    members(out, {{"epoch", static_cast<int64_t>(r.epoch)},
                  {"slots", r.slots},
                  {"used", r.used},
                  {"cached", r.cached},
                  {"rows", r.rows},
                  {"max_rows", r.max_rows},
                  {"in_flight", r.in_flight},
                  {"slots_per_cell", r.slots_per_cell}});
    cells(out, r.cells);
    list(out, "steps", r.steps, [&out](const EngineSnapshot::Step& s) {
      numbers(out, {static_cast<int64_t>(s.step), s.tokens, s.rows, s.compute_us, s.idle_us});
    });
    list(out, "ranks", r.ranks, [&out](const EngineSnapshot::Rank& rank) {
      numbers(out, {static_cast<int64_t>(rank.step), rank.age_us});
    });
    out += '}';
  });
  list(out, "running", snapshot.running, [&out](const EngineSnapshot::Running& r) {
    out += '{';
    members(out, {{"id", static_cast<int64_t>(r.id)},
                  {"replica", r.replica},
                  {"row", r.row},
                  {"prompt", r.prompt},
                  {"cached", r.cached},
                  {"output", r.output},
                  {"max_output", r.max_output},
                  {"computed", r.computed},
                  {"prefill", r.prefill ? 1 : 0},
                  {"leaving", r.leaving ? 1 : 0},
                  {"age_us", r.age_us}});
    out += '}';
  });
  list(out, "waiting", snapshot.waiting, [&out](const EngineSnapshot::Waiting& w) {
    out += '{';
    members(out, {{"id", static_cast<int64_t>(w.id)},
                  {"prompt", w.prompt},
                  {"output", w.output},
                  {"max_output", w.max_output},
                  {"paused", w.paused ? 1 : 0},
                  {"age_us", w.age_us},
                  {"need", w.need},
                  {"free", w.free}});
    out += R"(,"why":)";
    append_json_string(out, reason(w.why));
    out += '}';
  });
  out += '}';
  return out;
}

}  // namespace troupe
