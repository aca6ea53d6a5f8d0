#include "gpu/ops/attention.h"

#include "gpu/base/half.h"
#include "gpu/device/stream.h"
#include "tests/support/isas.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace troupe {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Shape {
  int32_t n_heads = 6;
  int32_t n_kv_heads = 2;
  int32_t head_dim = 64;
  DType dtype = DType::kF16;
};

/// Sequences of one layer: what every position's q, k and v are, independent of any slot.
struct Sequence {
  Shape shape;
  int32_t length = 0;
  std::vector<float> q, k, v;  // [length, heads, head_dim]

  Sequence(const Shape& s, int32_t n, uint32_t seed) : shape(s), length(n) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& x, int32_t heads) {
      x.resize(static_cast<size_t>(n) * static_cast<size_t>(heads * s.head_dim));
      for (float& e : x) e = normal(random);
      if (s.dtype == DType::kF16)
        for (float& e : x) e = float_from_f16(f16_from_float(e));
    };
    fill(q, s.n_heads);
    fill(k, s.n_kv_heads);
    fill(v, s.n_kv_heads);
  }
};

/// A pool full of NaN with the given sequences written to their slots.
struct Pool {
  Shape shape;
  std::vector<uint16_t> f16;
  std::vector<float> f32;

  Pool(const Shape& s, int32_t n_slots) : shape(s) {
    const auto n =
        static_cast<size_t>(n_slots) * static_cast<size_t>(s.n_kv_heads * 2 * s.head_dim);
    if (s.dtype == DType::kF16)
      f16.assign(n, f16_from_float(kNan));
    else
      f32.assign(n, kNan);
  }
  void write(const Sequence& seq, int32_t position, int32_t slot) {
    const int32_t d = shape.head_dim;
    for (int32_t h = 0; h < shape.n_kv_heads; ++h) {
      for (int32_t what = 0; what < 2; ++what) {
        const float* x = (what == 0 ? seq.k : seq.v).data() + (position * shape.n_kv_heads + h) * d;
        const auto at = static_cast<size_t>(((slot * shape.n_kv_heads + h) * 2 + what) * d);
        for (size_t i = 0; i < static_cast<size_t>(d); ++i) {
          if (shape.dtype == DType::kF16)
            f16[at + i] = f16_from_float(x[i]);
          else
            f32[at + i] = x[i];
        }
      }
    }
  }
  KvLayer layer() {
    void* data = shape.dtype == DType::kF16 ? static_cast<void*>(f16.data()) : f32.data();
    return {data, shape.dtype, shape.n_kv_heads, shape.head_dim};
  }
};

std::vector<int32_t> even_map(const Shape& s) {
  std::vector<int32_t> map(static_cast<size_t>(s.n_heads));
  for (int32_t h = 0; h < s.n_heads; ++h)
    map[static_cast<size_t>(h)] = h * s.n_kv_heads / s.n_heads;
  return map;
}

std::vector<int32_t> random_slots(int32_t n, int32_t n_slots, uint32_t seed) {
  std::vector<int32_t> slots(static_cast<size_t>(n_slots));
  std::iota(slots.begin(), slots.end(), 0);
  std::shuffle(slots.begin(), slots.end(), std::mt19937(seed));
  slots.resize(static_cast<size_t>(n));
  return slots;
}

/// What one row computes in a step.
struct Work {
  const Sequence* sequence;
  std::vector<int32_t> slots;  // [context]
  int32_t n_tokens;
};

/// Runs one step; K and V of all positions below each row's context are written, the rest is NaN.
std::vector<float> run(const std::vector<Work>& work, const std::vector<int32_t>& map,
                       int32_t n_slots, int32_t window, Stream& stream) {
  const Shape& s = work.front().sequence->shape;
  Pool pool(s, n_slots);
  const auto width = static_cast<size_t>((s.n_heads + 2 * s.n_kv_heads) * s.head_dim);
  const auto q_width = static_cast<size_t>(s.n_heads * s.head_dim);
  std::vector<AttentionRow> rows;
  std::vector<float> qkv;
  int32_t token = 0;
  for (const Work& w : work) {
    const auto context = static_cast<int32_t>(w.slots.size());
    for (int32_t p = 0; p < context; ++p)
      pool.write(*w.sequence, p, w.slots[static_cast<size_t>(p)]);
    rows.push_back({token, w.n_tokens, context, w.slots.data()});
    for (int32_t p = context - w.n_tokens; p < context; ++p) {
      const float* q = w.sequence->q.data() + static_cast<size_t>(p) * q_width;
      qkv.insert(qkv.end(), q, q + q_width);
      qkv.insert(qkv.end(), width - q_width, kNan);  // k and v are read from the pool only
    }
    token += w.n_tokens;
  }
  std::vector<float> out(static_cast<size_t>(token) * q_width, kNan);
  cpu::attention(out.data(), qkv.data(), pool.layer(), {s.n_heads, s.n_kv_heads, s.head_dim}, map,
                 rows, 1.0F / std::sqrt(static_cast<float>(s.head_dim)), window, stream);
  return out;
}

/// softmax(q K / sqrt(d)) V of the token at `position`, in double, straight from the definition.
std::vector<double> naive(const Sequence& seq, int32_t position, const std::vector<int32_t>& map,
                          int32_t window) {
  const Shape& s = seq.shape;
  const int32_t d = s.head_dim;
  std::vector<double> out(static_cast<size_t>(s.n_heads * d), 0.0);
  const int32_t begin = window > 0 ? std::max(0, position + 1 - window) : 0;
  for (int32_t h = 0; h < s.n_heads; ++h) {
    const int32_t kv = map[static_cast<size_t>(h)];
    const float* q = seq.q.data() + (position * s.n_heads + h) * d;
    std::vector<double> scores;
    for (int32_t p = begin; p <= position; ++p) {
      const float* k = seq.k.data() + (p * s.n_kv_heads + kv) * d;
      double dot = 0.0;
      for (int32_t i = 0; i < d; ++i) dot += static_cast<double>(q[i]) * static_cast<double>(k[i]);
      scores.push_back(dot / std::sqrt(static_cast<double>(d)));
    }
    const double best = *std::max_element(scores.begin(), scores.end());
    double sum = 0.0;
    for (double& x : scores) sum += x = std::exp(x - best);
    for (int32_t p = begin; p <= position; ++p) {
      const float* v = seq.v.data() + (p * s.n_kv_heads + kv) * d;
      const double weight = scores[static_cast<size_t>(p - begin)] / sum;
      for (int32_t i = 0; i < d; ++i)
        out[static_cast<size_t>(h * d + i)] += weight * static_cast<double>(v[i]);
    }
  }
  return out;
}

void expect_near(const std::vector<float>& got, size_t token, const std::vector<double>& want,
                 const std::string& what) {
  for (size_t i = 0; i < want.size(); ++i)
    ASSERT_NEAR(static_cast<double>(got[token * want.size() + i]), want[i], 1e-5)
        << what << " element " << i;
}

bool same_bits(const std::vector<float>& a, size_t a_at, const std::vector<float>& b, size_t b_at,
               size_t n) {
  return std::memcmp(a.data() + a_at, b.data() + b_at, n * sizeof(float)) == 0;
}

class AttentionTest : public testing::TestWithParam<Isa> {
 protected:
  Stream one_{1, GetParam()};
  Stream three_{3, GetParam()};
};

TEST_P(AttentionTest, DecodeMatchesTheDefinitionAtEveryEdge) {
  for (const int32_t context : {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000}) {
    const Sequence seq({}, context, 11);
    const auto map = even_map(seq.shape);
    const auto out =
        run({{&seq, random_slots(context, context + 37, 5), 1}}, map, context + 37, 0, one_);
    expect_near(out, 0, naive(seq, context - 1, map, 0), "context " + std::to_string(context));
  }
}

TEST_P(AttentionTest, ShapesAndGroups) {
  const std::vector<Shape> shapes = {
      {1, 1, 64, DType::kF16},  {2, 1, 64, DType::kF16},   {5, 1, 64, DType::kF16},
      {16, 1, 64, DType::kF16}, {32, 2, 128, DType::kF16}, {4, 4, 128, DType::kF32},
      {3, 1, 8, DType::kF32},   {4, 2, 72, DType::kF16},   {6, 3, 80, DType::kF32},
      {8, 4, 256, DType::kF16}, {70, 1, 24, DType::kF16}};
  for (const Shape& s : shapes) {
    const Sequence seq(s, 77, 3);
    const auto map = even_map(s);
    const auto out = run({{&seq, random_slots(77, 90, 6), 77}}, map, 90, 0, three_);
    for (int32_t p = 0; p < 77; ++p)
      expect_near(out, static_cast<size_t>(p), naive(seq, p, map, 0),
                  "heads " + std::to_string(s.n_heads) + " dim " + std::to_string(s.head_dim));
  }
}

TEST_P(AttentionTest, UnevenAndUnusedKvHeads) {
  const Sequence seq({7, 4, 64, DType::kF16}, 70, 8);
  const std::vector<int32_t> map = {0, 0, 0, 0, 1, 3, 3};  // nobody reads KV head 2
  const auto out = run({{&seq, random_slots(70, 70, 6), 70}}, map, 70, 0, three_);
  for (int32_t p = 0; p < 70; ++p)
    expect_near(out, static_cast<size_t>(p), naive(seq, p, map, 0), std::to_string(p));
}

TEST_P(AttentionTest, Windows) {
  const Sequence seq({}, 200, 4);
  const auto map = even_map(seq.shape);
  const size_t width = 6 * 64;
  for (const int32_t window : {1, 2, 63, 64, 65, 100, 199, 200, 500}) {
    const auto slots = random_slots(200, 200, 9);
    const auto prefill = run({{&seq, slots, 200}}, map, 200, window, three_);
    for (int32_t p = 0; p < 200; ++p)
      expect_near(prefill, static_cast<size_t>(p), naive(seq, p, map, window),
                  "window " + std::to_string(window) + " position " + std::to_string(p));
    for (const int32_t context : {1, 64, 130, 200}) {
      const std::vector<int32_t> prefix(slots.begin(), slots.begin() + context);
      const auto decode = run({{&seq, prefix, 1}}, map, 200, window, one_);
      EXPECT_TRUE(same_bits(prefill, static_cast<size_t>(context - 1) * width, decode, 0, width))
          << "window " << window << " context " << context;
    }
  }
}

// Bitwise: every chunking of a prefill, decode, any slots, any team and any neighbours.
TEST_P(AttentionTest, BatchInvariant) {
  const int32_t n = 210;
  const Sequence seq({}, n, 21);
  const Sequence other({}, 333, 22);
  const auto map = even_map(seq.shape);
  const size_t width = 6 * 64;
  const auto slots = random_slots(n, 1000, 1);
  const auto whole = run({{&seq, slots, n}}, map, 1000, 0, one_);
  for (const int32_t chunk : {1, 2, 7, 16, 64, 100}) {
    for (int32_t end = chunk; end <= n; end += chunk) {
      // Single tokens: all around the tile edges is enough.
      if (chunk == 1 && end % 64 > 3 && end % 64 < 61 && end % 16 != 1) continue;
      const std::vector<int32_t> prefix(slots.begin(), slots.begin() + end);
      const auto part = run({{&seq, prefix, chunk}}, map, 1000, 0, chunk % 2 == 0 ? one_ : three_);
      ASSERT_TRUE(same_bits(whole, static_cast<size_t>(end - chunk) * width, part, 0,
                            static_cast<size_t>(chunk) * width))
          << "chunk " << chunk << " end " << end;
    }
  }
  const auto shuffled = run({{&seq, random_slots(n, 5000, 77), n}}, map, 5000, 0, three_);
  EXPECT_TRUE(same_bits(whole, 0, shuffled, 0, whole.size()));

  const auto all = random_slots(n + 333, 1000, 2);
  const std::vector<int32_t> mine(all.begin(), all.begin() + n);
  const std::vector<int32_t> theirs(all.begin() + n, all.end());
  const auto beside =
      run({{&other, theirs, 50}, {&seq, mine, 40}, {&other, theirs, 1}}, map, 1000, 0, three_);
  EXPECT_TRUE(
      same_bits(whole, static_cast<size_t>(n - 40) * width, beside, 50 * width, 40 * width));
}

// A broken neighbour or a broken later token of the same row must not reach a token.
TEST_P(AttentionTest, NanStaysWhereItIs) {
  Sequence seq({}, 100, 31);
  const auto map = even_map(seq.shape);
  const auto slots = random_slots(100, 100, 1);
  const size_t width = 6 * 64;
  const auto clean = run({{&seq, slots, 100}}, map, 100, 0, one_);
  for (int32_t i = 0; i < 2 * 64; ++i) {
    seq.k[static_cast<size_t>(70 * 2 * 64 + i)] = kNan;
    seq.v[static_cast<size_t>(70 * 2 * 64 + i)] = std::numeric_limits<float>::infinity();
  }
  const auto broken = run({{&seq, slots, 100}}, map, 100, 0, one_);
  EXPECT_TRUE(same_bits(clean, 0, broken, 0, 70 * width));
  for (size_t i = 70 * width; i < broken.size(); ++i) ASSERT_TRUE(std::isnan(broken[i])) << i;
}

TEST_P(AttentionTest, LargeScoresDoNotOverflow) {
  Sequence seq({2, 1, 64, DType::kF32}, 130, 5);
  for (float& x : seq.q) x *= 100.0F;
  const auto map = even_map(seq.shape);
  const auto out = run({{&seq, random_slots(130, 130, 2), 130}}, map, 130, 0, one_);
  for (const float x : out) ASSERT_TRUE(std::isfinite(x));
}

TEST_P(AttentionTest, NoRows) {
  cpu::attention(nullptr, nullptr, {nullptr, DType::kF16, 2, 64}, {6, 2, 64},
                 std::vector<int32_t>{0, 0, 0, 1, 1, 1}, {}, 1.0F, 0, three_);
}

INSTANTIATE_TEST_SUITE_P(Isa, AttentionTest, testing::ValuesIn(testing_support::runnable_isas()),
                         testing_support::isa_name);

}  // namespace
}  // namespace troupe
