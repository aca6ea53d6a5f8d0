#pragma once

#include "actors/engine_snapshot.h"

namespace troupe::test {

/// A small replica with two requests that run, one that waits for slots and one behind it.
inline EngineSnapshot picture() {
  EngineSnapshot s;
  s.now = 1;
  EngineSnapshot::Replica r;
  r.epoch = 3;
  r.slots = 1000;
  r.used = 350;
  r.cached = 150;
  r.rows = 2;
  r.max_rows = 8;
  r.in_flight = 2;
  using Cell = EngineSnapshot::Cell;
  const auto cells = [&r](int n, int32_t owner, int32_t used) {
    r.cells.insert(r.cells.end(), static_cast<size_t>(n), Cell{owner, used});
  };
  cells(100, Cell::kFirstRequest, 1);
  cells(200, Cell::kFirstRequest + 1, 1);
  cells(50, Cell::kShared, 1);
  cells(150, Cell::kCached, 1);
  cells(500, Cell::kFree, 0);
  r.steps = {{1, 130, 1, 9000, 40}, {2, 2, 2, 3000, 30}, {3, 2, 2, -1, 0}};
  r.ranks = {{8, 500}, {7, 1500}};
  s.replicas.push_back(r);
  EngineSnapshot::Running decode;
  decode.id = 11;
  decode.prompt = 80;
  decode.output = 20;
  decode.max_output = 64;
  decode.computed = 100;
  EngineSnapshot::Running prefill = decode;
  prefill.id = 12;
  prefill.row = 1;
  prefill.prompt = 900;
  prefill.output = 0;
  prefill.prefill = true;
  s.running = {decode, prefill};
  EngineSnapshot::Waiting waits;
  waits.id = 13;
  waits.prompt = 2000;
  waits.max_output = 1100;
  waits.why = EngineSnapshot::Wait::kSlots;
  waits.need = 3100;
  waits.free = 2950;
  EngineSnapshot::Waiting behind;
  behind.id = 14;
  behind.prompt = 5;
  s.waiting = {waits, behind};
  s.waiting_total = 2;
  return s;
}

}  // namespace troupe::test
