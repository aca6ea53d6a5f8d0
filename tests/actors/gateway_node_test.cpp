#include "actors/node.h"
#include "nccl/communicators.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <vector>

namespace troupe {
namespace {

// Two plans are in flight when the node goes, and only one rank may have begun the second.
TEST(GatewayNode, EndsWhileItsLocalRanksCompute) {
  const test::TempDir dir;
  test::write_tiny_gguf(test::TinyModel{}, dir / "m.gguf", DType::kQ8_0);
  auto checkpoint = Checkpoint::open(dir / "m.gguf");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  for (int round = 0; round < 40; ++round) {
    // Shared with the sink, which the node may call until it is gone.
    const auto begun = std::make_shared<std::promise<void>>();
    const auto once = std::make_shared<std::atomic<bool>>(false);
    auto node = GatewayNode::start(**checkpoint, {}, [](const ReplicaEvent&) {});
    ASSERT_TRUE(node.ok()) << node.error().message;
    ExecutorOptions options;
    options.n_slots = 512;
    ASSERT_TRUE(
        (*node)->add_local_replica(**checkpoint, options, make_thread_communicators(2)).ok());
    GenerateRequest request;
    request.prompt = std::vector<int32_t>{5, 6, 7};
    request.max_tokens = 100;
    request.ignore_eos = true;
    (*node)->submit(std::move(request), [begun, once](EngineEvent&& event) {
      if (event.kind != EngineEvent::Kind::kPrompt && !once->exchange(true)) begun->set_value();
    });
    begun->get_future().wait();
  }
}

/// How often each of a number of streams has ended, and with what.
struct Ends {
  explicit Ends(size_t n) : times(n), codes(n) {}
  Sink sink(size_t i) {
    return [this, i](EngineEvent&& event) {
      if (event.kind != EngineEvent::Kind::kFinished) return;
      const std::lock_guard lock(mutex);
      ++times[i];
      codes[i] = event.error.code;
      ++ended;
      changed.notify_all();
    };
  }
  bool all() {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(30),
                            [this] { return ended == times.size(); });
  }
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<int> times;
  std::vector<ErrorCode> codes;
  size_t ended = 0;
};

GenerateRequest long_request() {
  GenerateRequest request;
  request.prompt = std::vector<int32_t>{5, 6, 7};
  request.max_tokens = 400;
  request.ignore_eos = true;
  return request;
}

TEST(GatewayNode, EndsEveryStreamOnceWhenToldTo) {
  const test::TempDir dir;
  test::write_tiny_gguf(test::TinyModel{}, dir / "m.gguf", DType::kQ8_0);
  auto checkpoint = Checkpoint::open(dir / "m.gguf");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  constexpr size_t kStreams = 200;
  Ends ends(kStreams);
  GatewayOptions options;
  options.tokenizers = 3;
  auto node = GatewayNode::start(**checkpoint, options, [](const ReplicaEvent&) {});
  ASSERT_TRUE(node.ok()) << node.error().message;
  // Without a replica nothing ends by itself. Some are still on their way to an actor.
  for (size_t i = 0; i < kStreams - 1; ++i) (*node)->submit(long_request(), ends.sink(i));
  (*node)->end_streams();
  (*node)->submit(long_request(), ends.sink(kStreams - 1));
  EXPECT_TRUE(ends.all());
  node->reset();
  EXPECT_EQ(ends.times, std::vector<int>(kStreams, 1));
  EXPECT_EQ(ends.codes, std::vector<ErrorCode>(kStreams, ErrorCode::kUnavailable));
}

TEST(GatewayNode, EndsEveryStreamOnceWhenItGoes) {
  const test::TempDir dir;
  test::write_tiny_gguf(test::TinyModel{}, dir / "m.gguf", DType::kQ8_0);
  auto checkpoint = Checkpoint::open(dir / "m.gguf");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  for (int round = 0; round < 20; ++round) {
    constexpr size_t kStreams = 8;
    Ends ends(kStreams);
    auto node = GatewayNode::start(**checkpoint, {}, [](const ReplicaEvent&) {});
    ASSERT_TRUE(node.ok()) << node.error().message;
    ExecutorOptions options;
    options.n_slots = 4096;
    ASSERT_TRUE(
        (*node)->add_local_replica(**checkpoint, options, make_thread_communicators(1)).ok());
    for (size_t i = 0; i < kStreams; ++i) (*node)->submit(long_request(), ends.sink(i));
    node->reset();
    EXPECT_EQ(ends.times, std::vector<int>(kStreams, 1));
  }
}

TEST(GatewayNode, MakesPicturesWhileSomebodyAsks) {
  const test::TempDir dir;
  test::write_tiny_gguf(test::TinyModel{}, dir / "m.gguf", DType::kQ8_0);
  auto checkpoint = Checkpoint::open(dir / "m.gguf");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  auto node = GatewayNode::start(**checkpoint, {}, [](const ReplicaEvent&) {});
  ASSERT_TRUE(node.ok()) << node.error().message;
  EXPECT_EQ((*node)->snapshot().now, 0) << "nobody has asked before";
  ExecutorOptions options;
  options.n_slots = 512;
  ASSERT_TRUE((*node)->add_local_replica(**checkpoint, options, make_thread_communicators(2)).ok());
  // One request after the other until a picture has steps and answers of both ranks.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  EngineSnapshot s;
  const auto complete = [&s] {
    return s.replicas.size() == 1 && s.replicas[0].ranks.size() == 2 &&
           s.replicas[0].ranks[1].step > 0 && !s.replicas[0].steps.empty() &&
           s.replicas[0].steps[0].compute_us > 0;
  };
  while (!complete() && std::chrono::steady_clock::now() < deadline) {
    const auto ended = std::make_shared<std::promise<void>>();
    GenerateRequest request;
    request.prompt = std::vector<int32_t>{5, 6, 7};
    request.max_tokens = 20;
    request.ignore_eos = true;
    (*node)->submit(std::move(request), [ended](EngineEvent&& event) {
      if (event.kind == EngineEvent::Kind::kFinished) ended->set_value();
    });
    ended->get_future().wait();
    s = (*node)->snapshot();
  }
  EXPECT_TRUE(complete());
  EXPECT_EQ(s.replicas[0].slots, 512);
}

}  // namespace
}  // namespace troupe
