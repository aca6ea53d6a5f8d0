#include "actors/node.h"
#include "nccl/communicators.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>

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
