#pragma once

#include "gpu/communicator.h"

#include <algorithm>
#include <barrier>
#include <cstring>
#include <memory>
#include <vector>

namespace troupe::testing_support {

/// Ranks of one process for tests of things that need a Communicator: blocking, no abort.
class LocalGroup {
 public:
  explicit LocalGroup(int32_t n) : n_(n), barrier_(n), pointers_(static_cast<size_t>(n)) {}

  class Rank final : public Communicator {
   public:
    Rank(LocalGroup& group, int32_t rank) : group_(group), rank_(rank) {}
    int32_t rank() const override { return rank_; }
    int32_t size() const override { return group_.n_; }
    void all_reduce_sum(std::span<float> data, Stream&) override {
      group_.pointers_[static_cast<size_t>(rank_)] = data.data();
      group_.barrier_.arrive_and_wait();
      std::vector<float> sum(data.size(), 0.0F);
      for (const void* p : group_.pointers_)
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<const float*>(p)[i];
      group_.barrier_.arrive_and_wait();
      std::copy(sum.begin(), sum.end(), data.begin());
    }
    void all_gather(std::span<const std::byte> mine, std::span<std::byte> all, Stream&) override {
      group_.pointers_[static_cast<size_t>(rank_)] = mine.data();
      group_.barrier_.arrive_and_wait();
      for (size_t r = 0; r < group_.pointers_.size(); ++r)
        std::memcpy(all.data() + r * mine.size(), group_.pointers_[r], mine.size());
      group_.barrier_.arrive_and_wait();
    }
    void broadcast(std::span<std::byte> data, int32_t root, Stream&) override {
      group_.pointers_[static_cast<size_t>(rank_)] = data.data();
      group_.barrier_.arrive_and_wait();
      const void* from = group_.pointers_[static_cast<size_t>(root)];
      if (rank_ != root) std::memcpy(data.data(), from, data.size());
      group_.barrier_.arrive_and_wait();
    }
    void abort() noexcept override {}

   private:
    LocalGroup& group_;
    int32_t rank_;
  };

 private:
  int32_t n_;
  std::barrier<> barrier_;
  std::vector<const void*> pointers_;
};

}  // namespace troupe::testing_support
