#pragma once

#include "gpu/device/isa.h"

#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

namespace troupe {

/// Where the ops of one rank run, in order. On the CPU: a team of threads that splits one op at a
/// time. (On a GPU the same class will carry the device stream.) Used from one thread, the rank
/// worker; that thread is member 0 of the team.
class Stream {
 public:
  /// A team of `n_threads` >= 1 threads, the caller included. `isa` is the instruction set that the
  /// ops use; tests force the lesser ones. Throws DeviceError when threads cannot be started.
  explicit Stream(int32_t n_threads, Isa isa = detect_isa());
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  [[nodiscard]] int32_t n_threads() const;
  [[nodiscard]] Isa isa() const { return isa_; }

  /// Runs body(int64_t begin, int64_t end, int32_t thread) over disjoint ranges that cover [0, n),
  /// each a multiple of `grain` long except the last, and returns when all are done. Ranges are
  /// handed out in increasing order, but which thread gets which range is not promised, so results
  /// must not depend on it. `body` must not throw or call parallel_for. Does not allocate.
  template <class Body>
  void parallel_for(int64_t n, int64_t grain, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run(n, grain, {&body, [](const void* b, int64_t begin, int64_t end, int32_t thread) {
                     (*static_cast<Plain*>(const_cast<void*>(b)))(begin, end, thread);
                   }});
  }

 private:
  struct Call {  // a borrowed body with its type erased
    const void* body = nullptr;
    void (*invoke)(const void*, int64_t, int64_t, int32_t) = nullptr;
  };
  void run(int64_t n, int64_t grain, Call call);

  struct Team;
  Isa isa_;
  std::unique_ptr<Team> team_;
};

}  // namespace troupe
