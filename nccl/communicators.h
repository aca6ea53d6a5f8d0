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

/// How ranks in different processes reach each other.
enum class MpiTransport {
  kAuto,      // a shared-memory window when all ranks are on one host, else messages
  kMessages,  // MPI messages in any case
};

/// This process's rank of MPI_COMM_WORLD (initialised with MPI_THREAD_MULTIPLE). Collective; throws
/// DeviceError. Destroying it is not collective: what it took from MPI lives until MPI_Finalize, so
/// that a rank which leaves alone never waits for the others.
std::unique_ptr<Communicator> make_mpi_communicator(MpiTransport transport = MpiTransport::kAuto);

#ifdef TROUPE_WITH_CUDA
/// Who adds up few values: nccl/peer_all_reduce.h where the GPUs allow it, or NCCL.
enum class SmallSums { kOwnKernel, kNccl };

/// Adds collectives on device memory to `host`, by NCCL on GPU `device_index` of this host, one GPU
/// a rank. Collective; throws DeviceError. A collective that fails or is aborted shows in check().
/// NVLink multicast is left to NCCL_NVLS_ENABLE, as everything else of NCCL's environment.
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host,
                                                     int32_t device_index,
                                                     SmallSums small_sums = SmallSums::kOwnKernel);
#endif

}  // namespace troupe
