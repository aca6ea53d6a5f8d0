#include "launch/mpi_session.h"

#include <mpi.h>
#include <unistd.h>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace troupe {

Result<MpiSession> MpiSession::start() {
  int provided = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) {
    return fail(ErrorCode::kUnavailable, "MPI_Init_thread failed; start ranks with mpirun");
  }
  MpiSession session;
  if (provided < MPI_THREAD_MULTIPLE) {
    return fail(ErrorCode::kUnavailable,
                "this MPI gives no MPI_THREAD_MULTIPLE; use an Open MPI built with it");
  }
  MPI_Comm_rank(MPI_COMM_WORLD, &session.rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &session.size_);
  MPI_Comm host = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, session.rank_, MPI_INFO_NULL, &host);
  MPI_Comm_rank(host, &session.local_rank_);
  MPI_Comm_size(host, &session.local_size_);
  MPI_Comm_free(&host);
  return session;
}

MpiSession::MpiSession(MpiSession&& other) noexcept
    : owner_(std::exchange(other.owner_, false)),
      rank_(other.rank_),
      size_(other.size_),
      local_rank_(other.local_rank_),
      local_size_(other.local_size_) {}

MpiSession::~MpiSession() {
  if (owner_) MPI_Finalize();
}

void MpiSession::broadcast(std::string& text) const {
  uint64_t bytes = text.size();
  MPI_Bcast(&bytes, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
  text.resize(bytes);
  MPI_Bcast(text.data(), static_cast<int>(bytes), MPI_BYTE, 0, MPI_COMM_WORLD);
}

void MpiSession::abort(int exit_code) {
  std::fflush(nullptr);
  // mpirun ends the other ranks when one leaves without MPI_Finalize, and says less than MPI_Abort.
  _exit(exit_code);
}

}  // namespace troupe
