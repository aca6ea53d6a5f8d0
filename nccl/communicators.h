#pragma once

#include "gpu/communicator.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace troupe {

/// One rank: every collective is the identity.
std::unique_ptr<Communicator> make_single_communicator();

/// `n` ranks on threads of this process.
std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int32_t n);

/// This process's rank of MPI_COMM_WORLD (initialised with MPI_THREAD_MULTIPLE). Ranks of one host
/// exchange through an MPI shared-memory window, otherwise messages are used. Collective.
std::unique_ptr<Communicator> make_mpi_communicator();

}  // namespace troupe
