#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace troupe {

/// Where the ops of one rank run, in order. On the CPU: a team of threads that splits one op at a
/// time. (On a GPU the same class will carry the device stream.) Used from one thread, the rank
/// worker; that thread is member 0 of the team.
class Stream {
 public:
  /// A team of `n_threads` >= 1 threads, the caller included.
  explicit Stream(int32_t n_threads);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  [[nodiscard]] int32_t n_threads() const;

  /// Runs body(begin, end, thread) over disjoint ranges that cover [0, n), each a multiple of
  /// `grain` long except the last, and returns when all are done. Which thread gets which range is
  /// not promised, so results must not depend on it. `body` must not throw.
  void parallel_for(int64_t n, int64_t grain,
                    const std::function<void(int64_t begin, int64_t end, int32_t thread)>& body);

 private:
  struct Team;
  std::unique_ptr<Team> team_;
};

}  // namespace troupe
