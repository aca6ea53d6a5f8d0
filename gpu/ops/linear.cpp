#include "gpu/ops/linear.h"

#include "gpu/base/check.h"
#include "gpu/base/half.h"
#include "gpu/device/stream.h"
#include "gpu/ops/linear_matrix.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace troupe::cpu {
namespace {

// What the threads of one linear() call share.
struct Call {
  float* out;
  const Matrix::Impl* w;
  const float* x;
  const float* bias;
  int64_t n_tokens;
  ActivationBlock* blocks;

  void quantize(int64_t token_begin, int64_t token_end) const {
    const int64_t units = w->cols / kUnit;
    for (int64_t t = token_begin; t < token_end; ++t) {
      const int64_t tile = t / kTileTokens;
      const int64_t in_tile = std::min(kTileTokens, n_tokens - tile * kTileTokens);
      w->kernels->quantize(x + t * w->cols, units,
                           activation_tile(blocks, tile, units) + t % kTileTokens, in_tile);
    }
  }

  // Panels [begin, end) for all tokens; a tile of tokens at a time, so that its activations stay in
  // the cache while the panels go by.
  void run_panels(int64_t begin, int64_t end) const {
    for (int64_t token = 0; token < n_tokens; token += kTileTokens) {
      for (const Segment& s : w->segments) {
        const int64_t first = std::max(begin, s.panel_begin);
        const int64_t last = std::min(end, s.panel_begin + s.panels());
        if (first < last) run_segment(s, first, last, token);
      }
    }
  }

  void run_segment(const Segment& s, int64_t first, int64_t last, int64_t token) const {
    const int64_t row_in_segment = (first - s.panel_begin) * kPanelRows;
    const int64_t row = s.row_begin + row_in_segment;
    const PanelRun run{
        .panels = w->panel(s, first),
        .panel_stride = s.panel_stride,
        .rows = std::min((last - first) * kPanelRows, s.rows - row_in_segment),
        .cols = w->cols,
        .out = out + token * w->rows + row,
        .out_stride = w->rows,
        .bias = bias == nullptr ? nullptr : bias + row,
        .n_tokens = std::min(kTileTokens, n_tokens - token),
    };
    if (s.quantised) {
      const ActivationBlock* tile = activation_tile(blocks, token / kTileTokens, w->cols / kUnit);
      w->kernels->quantized[static_cast<size_t>(s.codes)](run, tile);
    } else {
      w->kernels->plain[static_cast<size_t>(s.plain)](run, x + token * w->cols);
    }
  }
};

// Quantised activations of the call in progress on this thread (an op is called from one thread,
// the rank worker). Kept between calls so that a step allocates nothing.
ActivationBlock* scratch(int64_t n) {
  thread_local std::vector<ActivationBlock> blocks;
  if (std::cmp_less(blocks.size(), n)) blocks.resize(static_cast<size_t>(n));
  return blocks.data();
}

// Below this many blocks, starting the other threads takes longer than quantising.
constexpr int64_t kParallelQuantize = 4096;

// Row `r` of a segment as fp32.
void expand_row(const Matrix::Impl& m, const Segment& s, int64_t r, float* out) {
  const std::byte* panel = m.panel(s, s.panel_begin + r / kPanelRows);
  const int64_t lane = r % kPanelRows;
  const auto half_at = [](const std::byte* p) {
    uint16_t v = 0;
    std::memcpy(&v, p, sizeof v);
    return v;
  };
  if (!s.quantised) {
    for (int64_t c = 0; c < m.cols; ++c) {
      const int64_t i = c * kPanelRows + lane;
      switch (s.plain) {
        case PlainLayout::kF32:
        case PlainLayout::kExact: std::memcpy(out + c, panel + 4 * i, 4); break;
        case PlainLayout::kF16: out[c] = float_from_f16(half_at(panel + 2 * i)); break;
        case PlainLayout::kBF16: out[c] = float_from_bf16(half_at(panel + 2 * i)); break;
      }
    }
    return;
  }
  const bool nibbles = has_nibbles(s.codes);
  const int64_t units = m.cols / kUnit;
  const int64_t unit_bytes = kPanelRows * kUnit / (nibbles ? 2 : 1);
  const int64_t n_scales = scales_per_unit(s.codes);
  const auto scale = [&](int64_t unit, int64_t which) {
    const int64_t i = (unit * n_scales + which) * kPanelRows + lane;
    const std::byte* scales = panel + units * unit_bytes;
    if (!has_f32_scales(s.codes)) return float_from_f16(half_at(scales + 2 * i));
    float v = 0;
    std::memcpy(&v, scales + 4 * i, sizeof v);
    return v;
  };
  const int32_t centre = code_centre(s.codes);
  for (int64_t u = 0; u < units; ++u, out += kUnit) {
    const float first = scale(u, 0);
    const float second = scale(u, n_scales - 1);
    for (int64_t i = 0; i < kUnit; ++i) {
      const int64_t in_part = nibbles ? i % 16 : i;
      const auto byte = std::to_integer<int32_t>(
          panel[u * unit_bytes + (in_part / 4 * kPanelRows + lane) * 4 + i % 4]);
      const int32_t code = !nibbles ? byte : i < 16 ? byte & 15 : byte >> 4;
      const auto q = static_cast<float>(code - centre);
      if (is_affine(s.codes)) {
        out[i] = first * q + second;
      } else {
        out[i] = (i < 16 ? first : second) * q;
      }
    }
  }
}

}  // namespace

std::vector<const LinearKernels*> available_kernels() {
  std::vector<const LinearKernels*> found;
#if defined(__x86_64__)
  for (const LinearKernels* k : {avx512_kernels(), avx2_kernels()}) {
    if (k != nullptr) found.push_back(k);
  }
#endif
  found.push_back(portable_kernels());
  return found;
}

const Segment& segment_of_row(const Matrix::Impl& m, int64_t row) {
  return *std::prev(std::upper_bound(m.segments.begin(), m.segments.end(), row,
                                     [](int64_t r, const Segment& s) { return r < s.row_begin; }));
}

Matrix::Matrix() : impl_(std::make_unique<Impl>()) {}
Matrix::~Matrix() = default;
Matrix::Matrix(Matrix&&) noexcept = default;
Matrix& Matrix::operator=(Matrix&&) noexcept = default;
int64_t Matrix::rows() const { return impl_->rows; }
int64_t Matrix::cols() const { return impl_->cols; }
int64_t Matrix::bytes() const { return impl_->bytes; }

Result<Matrix> Matrix::pack(std::span<const MatrixSlice> slices, WeightMode mode, Stream& stream) {
  auto packed = pack_matrix(slices, mode, *available_kernels().front(), stream);
  if (!packed.ok()) return packed.error();
  Matrix m;
  m.impl_ = std::move(*packed);
  return m;
}

void multiply(float* out, const Matrix::Impl& w, const float* x, const float* bias,
              int32_t n_tokens, Stream& stream) {
  if (n_tokens <= 0 || w.rows == 0) return;
  Call call{out, &w, x, bias, n_tokens, nullptr};
  // The lambdas below capture one pointer: a std::function of that size does not allocate.
  const Call* c = &call;
  if (w.any_quantised) {
    const int64_t blocks = n_tokens * (w.cols / kUnit);
    call.blocks = scratch(blocks);
    if (blocks < kParallelQuantize) {
      call.quantize(0, n_tokens);
    } else {
      stream.parallel_for(n_tokens, 8, [c](int64_t begin, int64_t end, int32_t /*thread*/) {
        c->quantize(begin, end);
      });
    }
  }
  stream.parallel_for(w.panels, 4, [c](int64_t begin, int64_t end, int32_t /*thread*/) {
    c->run_panels(begin, end);
  });
}

void linear(float* out, const Matrix& w, const float* x, const float* bias, int32_t n_tokens,
            Stream& stream) {
  multiply(out, w.impl(), x, bias, n_tokens, stream);
}

void embedding(float* out, const Matrix& w, std::span<const int32_t> rows, Stream& stream) {
  const Matrix::Impl& m = w.impl();
  for (const int32_t row : rows) {
    TROUPE_CHECK(row < m.rows) << "row " << row << " of " << m.rows;
  }
  struct Gather {
    float* out;
    const Matrix::Impl* m;
    std::span<const int32_t> rows;
  } gather{out, &m, rows};
  const Gather* g = &gather;
  stream.parallel_for(static_cast<int64_t>(rows.size()), 8,
                      [g](int64_t begin, int64_t end, int32_t /*thread*/) {
                        for (int64_t t = begin; t < end; ++t) {
                          const int32_t row = g->rows[static_cast<size_t>(t)];
                          float* to = g->out + t * g->m->cols;
                          if (row < 0) {
                            std::fill_n(to, g->m->cols, 0.0F);
                          } else {
                            const Segment& s = segment_of_row(*g->m, row);
                            expand_row(*g->m, s, row - s.row_begin, to);
                          }
                        }
                      });
}

}  // namespace troupe::cpu
