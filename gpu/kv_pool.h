#pragma once

#include "gpu/ops/attention.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace troupe {

/// The bytes behind the slots: per layer [slot][kv_head][K | V][head_dim] for this rank's heads.
/// Which slot belongs to whom is the router's business. Pages are touched only when written.
class KvPool {
 public:
  KvPool(int32_t n_layers, int32_t n_slots, int32_t n_kv_heads, int32_t head_dim, DType dtype);
  ~KvPool();
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;

  [[nodiscard]] int32_t n_slots() const { return n_slots_; }
  [[nodiscard]] int64_t bytes() const { return bytes_; }
  [[nodiscard]] KvLayer layer(int32_t i) const { return layers_[static_cast<size_t>(i)]; }

  static int64_t bytes_per_slot(int32_t n_layers, int32_t n_kv_heads, int32_t head_dim,
                                DType dtype);

 private:
  int32_t n_slots_;
  int64_t bytes_ = 0;
  void* mapping_ = nullptr;
  std::vector<KvLayer> layers_;
};

}  // namespace troupe
