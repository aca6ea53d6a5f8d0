#pragma once

#include "gpu/base/result.h"

#include <cstdint>
#include <string>

namespace troupe {

/// MPI in this process, from MPI_Init_thread to MPI_Finalize. One at a time; the thread that made
/// it ends it.
class MpiSession {
 public:
  /// Fails when the library does not give MPI_THREAD_MULTIPLE.
  static Result<MpiSession> start();
  MpiSession(MpiSession&& other) noexcept;
  MpiSession& operator=(MpiSession&&) = delete;
  ~MpiSession();

  [[nodiscard]] int32_t rank() const { return rank_; }
  [[nodiscard]] int32_t size() const { return size_; }
  /// This process among the ranks of its host.
  [[nodiscard]] int32_t local_rank() const { return local_rank_; }
  /// Ranks on this host, this one included.
  [[nodiscard]] int32_t local_size() const { return local_size_; }

  /// `text` of rank 0 on all ranks. Collective.
  void broadcast(std::string& text) const;
  /// Ends the whole job at once with this exit code.
  [[noreturn]] static void abort(int exit_code);

 private:
  MpiSession() = default;
  bool owner_ = true;
  int32_t rank_ = 0;
  int32_t size_ = 1;
  int32_t local_rank_ = 0;
  int32_t local_size_ = 1;
};

}  // namespace troupe
