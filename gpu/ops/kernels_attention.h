#pragma once

// The attention kernel. See vec.h for who includes this.

#include "gpu/ops/kernels.h"
#include "gpu/ops/vec.h"

#include <cstdint>

namespace troupe::cpu {
namespace {

// Online softmax (Milakov and Gimelshein 2018; Dao 2023, FlashAttention-2) over fixed tiles of 64
// positions counted from position 0. Every query goes through the same tiles with the same
// operations in the same order whatever else is in the item: that is the batch invariance. What a
// query may not see is never multiplied, so neighbours' values, even NaN, cannot reach it.
constexpr int32_t kTile = 64;

struct AttentionScratch {
  // Rows are `stride` apart: head_dim rounded up to whole vectors, the padding zero.
  alignas(64) float tile[kTile * kMaxHeadDim];           // K, then V of the same positions
  alignas(64) float q[kMaxItemQueries * kMaxHeadDim];    // scaled
  alignas(64) float acc[kMaxItemQueries * kMaxHeadDim];  // unnormalised output
  alignas(64) float p[kMaxItemQueries * kTile];          // scores, then probabilities
  float max[kMaxItemQueries];
  float old_max[kMaxItemQueries];
  float sum[kMaxItemQueries];
  float rescale[kMaxItemQueries];
  int32_t begin[kMaxItemQueries];  // visible positions of the tile
  int32_t end[kMaxItemQueries];
};

int32_t at_least(int32_t x, int32_t low) { return x < low ? low : x; }
int32_t at_most(int32_t x, int32_t high) { return x > high ? high : x; }

/// Positions [begin, end) that the token at `position` sees.
int32_t visible_begin(int32_t position, int32_t window) {
  return window > 0 ? at_least(position + 1 - window, 0) : 0;
}

/// Vectors per row: kColumns where it is known when compiling, for the usual head sizes, else 0.
template <int kColumns>
constexpr int32_t row_stride(int32_t stride) {
  return kColumns > 0 ? kColumns * Vec::kWidth : stride;
}

/// Expands K (what = 0) or V (what = 1) of positions [begin, end) of the tile at `base`, and asks
/// the cache for the same rows of the next tile, below the row's context.
template <int kColumns>
void load_tile(float* out, int32_t stride, const AttentionJob& job, const AttentionItem& item,
               int32_t base, int32_t begin, int32_t end, int what) {
  constexpr int kW = Vec::kWidth;
  stride = row_stride<kColumns>(stride);
  const int32_t dim = job.shape.head_dim;
  const bool halves = job.kv.dtype == DType::kF16;
  const int64_t row_bytes = int64_t{dim} * (halves ? 2 : 4);
  const int64_t slot_bytes = 2 * job.kv.n_kv_heads * row_bytes;
  const char* data =
      static_cast<const char*>(job.kv.data) + (int64_t{2} * item.kv_head + what) * row_bytes;
  const int32_t* slots = item.row.slots + base;
  const int32_t ahead = item.row.context - base;  // positions from the tile's first on
  for (int32_t j = begin; j < end; ++j) {
    if (j + kTile < ahead) {  // into the second-level cache: the first is full of this tile
      const char* next = data + slots[j + kTile] * slot_bytes;
      for (int64_t b = 0; b < row_bytes; b += 64) __builtin_prefetch(next + b, 0, 2);
    }
    const char* row = data + slots[j] * slot_bytes;
    float* to = out + j * stride;
    if (kColumns > 0 && halves) {  // no padding: the stride is the head size
      for (int c = 0; c < kColumns; ++c)
        Vec::store(to + c * kW, Vec::load_f16(reinterpret_cast<const uint16_t*>(row) + c * kW));
      continue;
    }
    if (halves)
      floats_from_f16(to, reinterpret_cast<const uint16_t*>(row), dim);
    else
      __builtin_memcpy(to, row, static_cast<uint64_t>(row_bytes));
    for (int32_t d = dim; d < stride; ++d) to[d] = 0.0F;
  }
}

/// Scores of query i against the tile, and their maximum.
template <int kColumns>
void score(AttentionScratch& s, int32_t stride, int32_t i) {
  constexpr int kW = Vec::kWidth;
  stride = row_stride<kColumns>(stride);
  const int32_t begin = s.begin[i];
  const int32_t end = s.end[i];
  const float* q = s.q + i * stride;
  float* p = s.p + i * kTile;
  const F hidden = Vec::set1(-__builtin_inff());
  F best = hidden;
  for (int32_t j = begin / kW * kW; j < end; j += kW) {
    const float* k = s.tile + j * stride;
    F dot[kW];
    for (F& d : dot) d = Vec::zero();
    for (int32_t c = 0; c < stride; c += kW) {
      const F query = Vec::load(q + c);
      for (int r = 0; r < kW; ++r) dot[r] = Vec::fma(query, Vec::load(k + r * stride + c), dot[r]);
    }
    const F scores = Vec::keep_lanes(Vec::sum_each(dot), begin - j, end - j, hidden);
    Vec::store(p + j, scores);
    best = Vec::max(scores, best);  // keeps `best` where a score is NaN
  }
  const float tile_max = Vec::largest(best);
  s.old_max[i] = s.max[i];
  s.max[i] = tile_max > s.max[i] ? tile_max : s.max[i];
}

/// Scores of query i to probabilities, relative to the maximum so far.
void exponentiate(AttentionScratch& s, int32_t i) {
  constexpr int kW = Vec::kWidth;
  const int32_t begin = s.begin[i];
  const int32_t end = s.end[i];
  float* p = s.p + i * kTile;
  const F max = Vec::set1(s.max[i]);
  F total = Vec::zero();
  for (int32_t j = begin / kW * kW; j < end; j += kW) {
    // Hidden lanes become exactly 0 and leave the sum as it is.
    const F e =
        Vec::keep_lanes(vec_exp(Vec::sub(Vec::load(p + j), max)), begin - j, end - j, Vec::zero());
    Vec::store(p + j, e);
    total = Vec::add(total, e);
  }
  float factor[kW];
  Vec::store(factor, vec_exp(Vec::sub(Vec::set1(s.old_max[i]), max)));
  s.rescale[i] = factor[0];
  s.sum[i] = s.sum[i] * factor[0] + Vec::sum(total);
}

/// acc = acc * rescale + P V for queries [i, i + Q) that see the same positions, columns
/// [column, column + N * width).
template <int Q, int N, int kColumns>
void accumulate_columns(AttentionScratch& s, int32_t stride, int32_t i, int32_t column) {
  constexpr int kW = Vec::kWidth;
  stride = row_stride<kColumns>(stride);
  float* acc = s.acc + i * stride + column;
  F a[Q][N];
  for (int q = 0; q < Q; ++q)
    for (int n = 0; n < N; ++n)
      a[q][n] = Vec::mul(Vec::load(acc + q * stride + n * kW), Vec::set1(s.rescale[i + q]));
  const float* v = s.tile + column;
  const float* p = s.p + i * kTile;
  for (int32_t j = s.begin[i]; j < s.end[i]; ++j) {
    F row[N];
    for (int n = 0; n < N; ++n) row[n] = Vec::load(v + j * stride + n * kW);
    for (int q = 0; q < Q; ++q) {
      const F weight = Vec::set1(p[q * kTile + j]);
      for (int n = 0; n < N; ++n) a[q][n] = Vec::fma(weight, row[n], a[q][n]);
    }
  }
  for (int q = 0; q < Q; ++q)
    for (int n = 0; n < N; ++n) Vec::store(acc + q * stride + n * kW, a[q][n]);
}

template <int Q, int kColumns>
void accumulate(AttentionScratch& s, int32_t stride, int32_t i) {
  constexpr int kW = Vec::kWidth;
  stride = row_stride<kColumns>(stride);
  int32_t c = 0;
  for (; c + Vec::kUnroll * kW <= stride; c += Vec::kUnroll * kW)
    accumulate_columns<Q, Vec::kUnroll, kColumns>(s, stride, i, c);
  for (; c < stride; c += kW) accumulate_columns<Q, 1, kColumns>(s, stride, i, c);
}

/// Positions [begin, end) of the tile at `base` for all queries of an item.
template <int kColumns>
void attend_tile(AttentionScratch& s, int32_t stride, const AttentionJob& job,
                 const AttentionItem& item, int32_t base, int32_t begin, int32_t end) {
  const int32_t n_queries = item.n * (item.head_end - item.head_begin);
  load_tile<kColumns>(s.tile, stride, job, item, base, begin, end, 0);
  for (int32_t i = 0; i < n_queries; ++i)
    if (s.begin[i] < s.end[i]) score<kColumns>(s, stride, i);
  for (int32_t i = 0; i < n_queries; ++i)
    if (s.begin[i] < s.end[i]) exponentiate(s, i);
  load_tile<kColumns>(s.tile, stride, job, item, base, begin, end, 1);
  for (int32_t i = 0; i < n_queries;) {
    int32_t n = 1;
    while (n < 4 && i + n < n_queries && s.begin[i + n] == s.begin[i] && s.end[i + n] == s.end[i])
      ++n;
    if (s.begin[i] < s.end[i]) {
      if (n == 4)
        accumulate<4, kColumns>(s, stride, i);
      else if (n == 3)
        accumulate<3, kColumns>(s, stride, i);
      else if (n == 2)
        accumulate<2, kColumns>(s, stride, i);
      else
        accumulate<1, kColumns>(s, stride, i);
    }
    i += n;
  }
}

void attend(const AttentionJob& job, const AttentionItem& item) {
  AttentionScratch s;  // only the part that the head size needs is touched
  const int32_t dim = job.shape.head_dim;
  const int32_t stride = (dim + Vec::kWidth - 1) / Vec::kWidth * Vec::kWidth;
  const int32_t group = item.head_end - item.head_begin;
  const int32_t n_queries = item.n * group;
  const int64_t qkv_stride =
      static_cast<int64_t>(job.shape.n_heads + 2 * job.shape.n_kv_heads) * dim;
  for (int32_t i = 0; i < n_queries; ++i) {
    const float* q = job.qkv + (item.row.token_begin + item.first + i / group) * qkv_stride +
                     static_cast<int64_t>(item.head_begin + i % group) * dim;
    for (int32_t d = 0; d < stride; ++d) {
      s.q[i * stride + d] = d < dim ? q[d] * job.scale : 0.0F;
      s.acc[i * stride + d] = 0.0F;
    }
    s.max[i] = -__builtin_inff();
    s.sum[i] = 0.0F;
  }
  const int32_t position = item.row.context - item.row.n_tokens + item.first;  // of query 0
  const int32_t all_begin = visible_begin(position, job.window);
  const int32_t all_end = position + item.n;
  for (int32_t base = all_begin / kTile * kTile; base < all_end; base += kTile) {
    const int32_t begin = at_least(all_begin - base, 0);
    const int32_t end = at_most(all_end - base, kTile);
    for (int32_t i = 0; i < n_queries; ++i) {
      const int32_t own = position + i / group;
      s.begin[i] = at_least(visible_begin(own, job.window) - base, 0);
      s.end[i] = at_most(own + 1 - base, kTile);
    }
    if (dim == 64)
      attend_tile<64 / Vec::kWidth>(s, stride, job, item, base, begin, end);
    else if (dim == 128)
      attend_tile<128 / Vec::kWidth>(s, stride, job, item, base, begin, end);
    else
      attend_tile<0>(s, stride, job, item, base, begin, end);
  }
  for (int32_t i = 0; i < n_queries; ++i) {
    float* out = job.out + (static_cast<int64_t>(item.row.token_begin + item.first + i / group) *
                                job.shape.n_heads +
                            item.head_begin + i % group) *
                               dim;
    const float inverse = 1.0F / s.sum[i];
    for (int32_t d = 0; d < dim; ++d) out[d] = s.acc[i * stride + d] * inverse;
  }
}

}  // namespace
}  // namespace troupe::cpu
