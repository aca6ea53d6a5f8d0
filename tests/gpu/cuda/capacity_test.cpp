#include "gpu/cuda/capacity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

namespace troupe::cuda {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr size_t kMib = size_t{1} << 20;

DeviceFacts an_h200() { return {13000, 13000, cudaSuccess, 1, "NVIDIA H200", 9, 0, true}; }

std::string problem(const std::function<void(DeviceFacts&)>& change) {
  DeviceFacts facts = an_h200();
  change(facts);
  const std::string said = device_problem(facts);
  EXPECT_EQ(said.find('\n'), std::string::npos);
  return said;
}

TEST(DeviceProblem, SaysWhatIsInTheWayInOneLine) {
  EXPECT_EQ(device_problem(an_h200()), "");
  EXPECT_THAT(problem([](DeviceFacts& f) {
                f.driver = 0;
                f.found = cudaErrorInsufficientDriver;  // what a host without driver answers
              }),
              AllOf(HasSubstr("no NVIDIA driver"), HasSubstr("--device cpu")));
  EXPECT_THAT(problem([](DeviceFacts& f) {
                f.driver = 12040;
                f.found = cudaErrorInsufficientDriver;
              }),
              AllOf(HasSubstr("knows CUDA 12.4"), HasSubstr("needs 13.0"), HasSubstr("update")));
  EXPECT_THAT(problem([](DeviceFacts& f) { f.count = 0; }), HasSubstr("CUDA_VISIBLE_DEVICES"));
  EXPECT_THAT(problem([](DeviceFacts& f) { f.found = cudaErrorNoDevice; }),
              HasSubstr("CUDA_VISIBLE_DEVICES"));
  EXPECT_THAT(problem([](DeviceFacts& f) { f.found = cudaErrorECCUncorrectable; }),
              AllOf(HasSubstr("does not answer"), HasSubstr("ECC")));
  for (const int major : {7, 8, 10, 12})
    EXPECT_THAT(
        problem([&](DeviceFacts& f) {
          f.name = "NVIDIA Other";
          f.major = major;
        }),
        AllOf(HasSubstr("NVIDIA Other (compute capability " + std::to_string(major) + ".0)"),
              HasSubstr("9.0 (Hopper) only")));
  EXPECT_THAT(problem([](DeviceFacts& f) { f.has_kernels = false; }),
              HasSubstr("-DCMAKE_CUDA_ARCHITECTURES=90a"));
}

/// 1 GiB free of 2, 512 MiB of it reserve.
class Fit : public ::testing::Test {
 protected:
  std::string refusal(size_t weights_mib, size_t fp8_mib, int32_t slots) const {
    const Status status =
        check_fit(device_, {weights_mib * kMib, fp8_mib * kMib, 12 * kMib, kMib}, slots);
    if (status.ok()) return "";
    EXPECT_EQ(status.error().code, ErrorCode::kOutOfMemory);
    return status.error().message;
  }
  DeviceInfo device_ = {"small GPU", 2048 * kMib, 1024 * kMib};
};

TEST_F(Fit, NamesWhatIsNeededWhatIsThereAndWhatWouldFit) {
  // 1024 - 512 - 12 - 400 leaves 100 slots, one of them the spare one.
  EXPECT_EQ(refusal(400, 0, 99), "");
  EXPECT_EQ(refusal(400, 0, 100),
            "the rank needs 1025 MiB (weights 400 MiB, KV 101 MiB, workspace 12 MiB, "
            "reserve 512 MiB), the small GPU has 1024 MiB free of 2048 MiB; lower "
            "--kv-tokens to at most 99");
  EXPECT_EQ(refusal(400, 0, 99), "");
}

TEST_F(Fit, WeightsThatDoNotFitGetTheirWayOut) {
  EXPECT_THAT(refusal(600, 300, 1),
              HasSubstr("--weights fp8 takes 300 MiB for them and leaves room for 199 KV tokens"));
  EXPECT_THAT(refusal(4000, 2000, 1), HasSubstr("over 5 GPUs or more with --tp and --weights fp8"));
  EXPECT_THAT(refusal(600, 0, 1), HasSubstr("over 2 GPUs or more with --tp"));
  device_.free_bytes = 400 * kMib;
  EXPECT_THAT(refusal(600, 0, 1), HasSubstr("free memory on the GPU first"));
}

ModelConfig a_model() {
  ModelConfig c;
  c.n_layers = 2;
  c.hidden = 512;
  c.n_heads = 8;
  c.n_kv_heads = 2;
  c.head_dim = 64;
  c.ffn = 1024;
  c.vocab = 1000;
  c.rope.rotary_dim = 64;
  return c;
}

TEST(CheckModel, NamesWhatKernelsDoNotHave) {
  const auto refusal = [](const std::function<void(ModelConfig&)>& change, int32_t ranks = 1) {
    ModelConfig c = a_model();
    change(c);
    const Status status = check_model(c, make_shard(c, 32, 0, ranks), ranks);
    return status.ok() ? "" : status.error().message;
  };
  EXPECT_EQ(refusal([](ModelConfig&) {}), "");
  EXPECT_EQ(refusal([](ModelConfig&) {}, 2), "");
  EXPECT_THAT(refusal([](ModelConfig& c) { c.head_dim = 80; }), HasSubstr("heads of 80"));
  EXPECT_THAT(refusal([](ModelConfig& c) { c.rope.rotary_dim = 24; }), HasSubstr("rotary"));
  EXPECT_THAT(refusal([](ModelConfig& c) { c.hidden = 520; }), HasSubstr("hidden size of 520"));
  EXPECT_THAT(refusal([](ModelConfig& c) {
                c.n_heads = 32;
                c.n_kv_heads = 1;
              }),
              HasSubstr("16 query heads"));
  const ModelConfig c = a_model();
  Shard uneven = make_shard(c, 32, 0, 1);
  uneven.kv_head_of.back() = 0;
  EXPECT_THAT(check_model(c, uneven, 3).error().message, HasSubstr("--tp 3 does not divide"));
}

TEST(Buckets, EndWithTheLargestAndGrow) {
  for (const int32_t most : {1, 3, 16, 100, 256, 512}) {
    const auto buckets = decode_buckets(most);
    EXPECT_EQ(buckets.back(), most);
    for (size_t i = 1; i < buckets.size(); ++i) EXPECT_LT(buckets[i - 1], buckets[i]);
  }
}

}  // namespace
}  // namespace troupe::cuda
