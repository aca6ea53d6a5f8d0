// The all-reduce of a step alone: mpirun -n N cuda_collective_bench. One GPU a rank; calls follow
// each other in a graph; the median of some replays, microseconds a call, by NCCL and as a step
// does it: by the own kernel up to its limit, else by NCCL.
#include "gpu/base/check.h"
#include "gpu/cuda/device.h"
#include "nccl/communicators.h"

#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <vector>

namespace {

using namespace troupe;

constexpr int32_t kCalls = 100;
constexpr int32_t kReplays = 15;

/// Microseconds a call.
double time_calls(Communicator& c, cuda::DeviceBuffer<uint16_t>& data, int64_t bytes,
                  cudaStream_t stream) {
  const auto call = [&](int32_t i) {
    // Rotating, so that a call does not find its input in the cache of the one before.
    const size_t parts = data.bytes() / static_cast<size_t>(bytes);
    const size_t at = static_cast<size_t>(i) % parts * static_cast<size_t>(bytes) / 2;
    c.device_all_reduce_sum(data.data() + at, bytes / 2, stream);
  };
  for (int32_t i = 0; i < 3; ++i) call(i);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  TROUPE_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int32_t i = 0; i < kCalls; ++i) call(i);
  TROUPE_CUDA(cudaStreamEndCapture(stream, &graph));
  TROUPE_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  TROUPE_CUDA(cudaEventCreate(&begin));
  TROUPE_CUDA(cudaEventCreate(&end));
  std::vector<float> ms(kReplays);
  for (float& t : ms) {
    call(0);  // ranks start together
    TROUPE_CUDA(cudaEventRecord(begin, stream));
    TROUPE_CUDA(cudaGraphLaunch(executable, stream));
    TROUPE_CUDA(cudaEventRecord(end, stream));
    TROUPE_CUDA(cudaStreamSynchronize(stream));
    TROUPE_CUDA(cudaEventElapsedTime(&t, begin, end));
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  std::sort(ms.begin(), ms.end());
  return ms[kReplays / 2] * 1e3 / kCalls;
}

void run(int32_t rank, int32_t n_ranks) {
  auto nccl = make_nccl_communicator(make_mpi_communicator(), rank, SmallSums::kNccl);
  auto own = make_nccl_communicator(make_mpi_communicator(), rank, SmallSums::kOwnKernel);
  cudaStream_t stream = nullptr;
  TROUPE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cuda::DeviceBuffer<uint16_t> data(size_t{32} << 20);
  TROUPE_CUDA(cudaMemset(data.data(), 0, data.bytes()));
  for (int64_t bytes = 8192; bytes <= int64_t{32} << 20; bytes *= 2) {
    const double by_nccl = time_calls(*nccl, data, bytes, stream);
    const double by_own = time_calls(*own, data, bytes, stream);
    if (rank == 0)
      std::printf(
          "{\"bench\":\"all_reduce\",\"ranks\":%d,\"bytes\":%lld,\"nccl_us\":%.2f,"
          "\"own_us\":%.2f}\n",
          n_ranks, static_cast<long long>(bytes), by_nccl, by_own);
  }
  cudaStreamDestroy(stream);
}

}  // namespace

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  int rank = 0;
  int n_ranks = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
  run(rank, n_ranks);
  MPI_Finalize();
  return 0;
}
