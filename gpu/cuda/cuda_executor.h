#pragma once

#include "gpu/cuda/executor.h"
#include "gpu/cuda/llama.h"
#include "gpu/cuda/sampler.h"
#include "gpu/cuda/step_state.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// Inside of make_executor().
namespace troupe::cuda {

class CudaStream {
 public:
  CudaStream() { TROUPE_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~CudaStream() { cudaStreamDestroy(stream_); }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  [[nodiscard]] cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// A captured decode step.
class Graph {
 public:
  template <class Body>
  Graph(cudaStream_t stream, const Body& body) {
    cudaGraph_t graph = nullptr;
    TROUPE_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    body();
    TROUPE_CUDA(cudaStreamEndCapture(stream, &graph));
    const cudaError_t made = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    TROUPE_CUDA(made);
    TROUPE_CUDA(cudaGraphUpload(executable_, stream));
  }
  ~Graph() {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
  }
  Graph(Graph&& other) noexcept : executable_(std::exchange(other.executable_, nullptr)) {}
  Graph& operator=(Graph&&) = delete;
  void launch(cudaStream_t stream) const { TROUPE_CUDA(cudaGraphLaunch(executable_, stream)); }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

struct Row {
  bool live = false;
  bool sampled = false;  // has a last token
  int32_t length = 0;    // positions so far
};

/// A step on its way.
struct Pending {
  StepPlan plan;
  uint64_t index = 0;            // the device's count of steps before it
  std::vector<int32_t> samples;  // of each result, in the plan's order: its place on the device
};

/// The rank. Steps are described in pinned memory, launched without waiting, and end by themselves:
/// between two decode steps the host only writes one ring entry and launches one graph.
class CudaExecutor final : public Executor {
 public:
  CudaExecutor(const ModelConfig& config, const Shard& shard, const ExecutorOptions& options,
               const Variant& variant, std::unique_ptr<Weights> weights,
               Communicator& communicator);
  ~CudaExecutor() override;

  static Llama::Limits limits(const ModelConfig& config, const ExecutorOptions& options,
                              const Variant& variant);
  static StepState::Limits state_limits(const ModelConfig& config, const Shard& shard,
                                        const ExecutorOptions& options, const Variant& variant,
                                        int32_t n_ranks);
  /// Runs a step of the largest size against a pool that is just large enough, then makes the real
  /// pool: `n_slots`, or what is left for 0 on the fullest rank. kOutOfMemory when too little is.
  /// Collective.
  Status make_pool(int32_t n_slots);
  void randomise_pool();
  void tune(const std::string& table);
  void capture();

  void enqueue(const StepPlan& plan) override;
  [[nodiscard]] bool ready() const override;
  StepResult collect() override;
  void reset() override;
  [[nodiscard]] int32_t n_slots() const override { return pool_->n_slots(); }
  [[nodiscard]] Memory memory() const override;

 private:
  Row& live_row(int32_t row);
  void check_ids(std::span<const int32_t> list, int32_t limit) const;
  void open(const OpenRow& opened);
  void close(int32_t row);
  /// Fills the ring entry and returns what forward() needs; decode rows come first.
  StepInput lay_out(const StepPlan& plan, Pending& pending);
  void launch_step(const StepInput& input);
  void launch_decode(int32_t bucket);
  [[nodiscard]] int32_t bucket_of(int32_t n_rows) const;
  [[nodiscard]] bool ended(uint64_t index) const;
  void check_device() const;

  Communicator& communicator_;
  ModelConfig config_;
  Shard shard_;
  ExecutorOptions options_;
  Variant variant_;
  AttentionShape shape_;
  KvFormat kv_format_;
  CudaStream stream_;
  Llama model_;
  StepState state_;
  Sampler sampler_;
  std::unique_ptr<KvPool> pool_;
  int32_t first_token_ = 0;  // the vocabulary id of the first logit
  std::vector<int32_t> buckets_;
  std::map<int32_t, Graph> graphs_;
  size_t graph_bytes_ = 0;

  std::vector<Row> rows_;
  std::deque<Pending> pending_;
  uint64_t n_enqueued_ = 0;  // steps, ever
  uint64_t last_end_ns_ = 0;
  std::vector<Chunk> chunks_;
  mutable std::chrono::steady_clock::time_point next_check_;
};

}  // namespace troupe::cuda
