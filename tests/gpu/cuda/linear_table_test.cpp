#include "gpu/cuda/linear_table.h"

#include "tests/support/temp_dir.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

namespace troupe::cuda {
namespace {

const TuneKey kKey = {"NVIDIA H200", 132, 13000, 130000};

TuneTable a_table() {
  TuneTable table;
  TunedKernel& kernel = table[{4096, 14336, 16, WeightFormat::kFp8, false}];
  cublasLtMatmulAlgo_t algorithm = {};
  for (size_t i = 0; i < std::size(algorithm.data); ++i)
    algorithm.data[i] = 0x0123456789abcdefULL * i;
  kernel.kernel = algorithm;
  kernel.us = 18.5;
  table[{128256, 4096, 1, WeightFormat::kBf16, true}].kernel = StreamVariant{};
  table[{4096, 4096, 256, WeightFormat::kBf16, false}].kernel = WideVariant{192, 2, 1};
  return table;
}

void expect_same(const TuneTable& a, const TuneTable& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [shape, kernel] : a) {
    ASSERT_TRUE(b.contains(shape));
    const TunedKernel& other = b.at(shape);
    EXPECT_EQ(kernel.us, other.us);
    ASSERT_EQ(kernel.kernel.index(), other.kernel.index());
    if (const auto* own = std::get_if<StreamVariant>(&kernel.kernel)) {
      EXPECT_EQ(*own, std::get<StreamVariant>(other.kernel));
    } else if (const auto* wide = std::get_if<WideVariant>(&kernel.kernel)) {
      EXPECT_EQ(*wide, std::get<WideVariant>(other.kernel));
    } else {
      const auto& x = std::get<cublasLtMatmulAlgo_t>(kernel.kernel);
      const auto& y = std::get<cublasLtMatmulAlgo_t>(other.kernel);
      EXPECT_TRUE(std::equal(std::begin(x.data), std::end(x.data), std::begin(y.data)));
    }
  }
}

TEST(TuneTable, ComesBackAsItWasWritten) {
  const test::TempDir directory;
  const std::string path = directory.path() + "/table.jsonl";
  write_tune_table(path, kKey, a_table());
  expect_same(a_table(), read_tune_table(path, kKey));
}

TEST(TuneTable, IsOfOneGpuAndLibraryAndOfAnyDriverWhereThatIsAsked) {
  const test::TempDir directory;
  const std::string path = directory.path() + "/table.jsonl";
  write_tune_table(path, kKey, a_table());
  const auto with = [&](auto&& change) {
    TuneKey key = kKey;
    change(key);
    return read_tune_table(path, key).size();
  };
  EXPECT_EQ(with([](TuneKey& k) { k.gpu = "NVIDIA H100"; }), 0U);
  EXPECT_EQ(with([](TuneKey& k) { k.sms = 114; }), 0U);
  EXPECT_EQ(with([](TuneKey& k) { k.driver = 12080; }), 0U);
  EXPECT_EQ(with([](TuneKey& k) { k.cublaslt = 130100; }), 0U);
  EXPECT_EQ(with([](TuneKey& k) { k.driver = 0; }), a_table().size());
}

TEST(TuneTable, DamagedLinesAreLeftOut) {
  const test::TempDir directory;
  const std::string path = directory.path() + "/table.jsonl";
  write_tune_table(path, kKey, a_table());
  std::ostringstream whole;
  whole << std::ifstream(path).rdbuf();
  std::istringstream damaged("\n{\n[1]\n" + whole.str() + whole.str().substr(0, 60));
  expect_same(a_table(), read_tune_table(damaged, kKey));
  EXPECT_TRUE(read_tune_table(directory.path() + "/none", kKey).empty());
}

/// Whatever is shipped is for known GPUs only.
TEST(TuneTable, NothingIsShippedForAnUnknownGpu) {
  EXPECT_TRUE(shipped_tune_table({"NVIDIA Nothing", 1, 0, 1}).empty());
}

}  // namespace
}  // namespace troupe::cuda
