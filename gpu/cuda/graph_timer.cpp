#include "gpu/cuda/graph_timer.h"

#include "gpu/cuda/device.h"

#include <algorithm>
#include <vector>

namespace troupe::cuda {
namespace {

/// A stream, the graph captured on it and two events.
struct Capture {
  Capture() {
    TROUPE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    TROUPE_CUDA(cudaEventCreate(&begin));
    TROUPE_CUDA(cudaEventCreate(&end));
  }
  ~Capture() {
    if (executable != nullptr) cudaGraphExecDestroy(executable);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaStreamDestroy(stream);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
};

}  // namespace

double time_in_graph(const std::function<void(int32_t, cudaStream_t)>& launch, int32_t n,
                     int32_t replays) {
  Capture c;
  launch(0, c.stream);  // loads what is loaded at first use
  TROUPE_CUDA(cudaStreamSynchronize(c.stream));
  TROUPE_CUDA(cudaStreamBeginCapture(c.stream, cudaStreamCaptureModeThreadLocal));
  for (int32_t i = 0; i < n; ++i) launch(i, c.stream);
  TROUPE_CUDA(cudaStreamEndCapture(c.stream, &c.graph));
  TROUPE_CUDA(cudaGraphInstantiate(&c.executable, c.graph, 0));
  TROUPE_CUDA(cudaGraphLaunch(c.executable, c.stream));
  std::vector<float> times;
  for (int32_t i = 0; i < replays; ++i) {
    TROUPE_CUDA(cudaEventRecord(c.begin, c.stream));
    TROUPE_CUDA(cudaGraphLaunch(c.executable, c.stream));
    TROUPE_CUDA(cudaEventRecord(c.end, c.stream));
    TROUPE_CUDA(cudaEventSynchronize(c.end));
    float ms = 0.0F;
    TROUPE_CUDA(cudaEventElapsedTime(&ms, c.begin, c.end));
    times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  return double{times[times.size() / 2]} * 1000.0 / n;
}

}  // namespace troupe::cuda
