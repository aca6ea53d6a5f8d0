#include "gpu/base/half.h"
#include "gpu/device/stream.h"
#include "gpu/ops/linear_matrix.h"
#include "gpu/quant/dequantize.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

namespace troupe::cpu {
namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 32;  // keeps byte counts far from overflow
constexpr int64_t kHugePage = int64_t{2} << 20;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

bool is_plain(DType t) { return block_elements(t) == 1; }

Status check_slice(const MatrixSlice& s, int64_t width) {
  if (s.tensor == nullptr) return fail(ErrorCode::kBadModel, "A matrix slice names no tensor.");
  const TensorView& t = *s.tensor;
  const auto bad = [&](const std::string& why) {
    return fail(ErrorCode::kBadModel,
                "Tensor '" + t.name + "' (" + std::string(to_string(t.dtype)) + "): " + why);
  };
  if (t.shape.size() != 2) return bad("expected a matrix.");
  if (t.rows() <= 0 || t.cols() <= 0) return bad("has an empty side.");
  if (t.cols() > kMaxWidth) return bad("is wider than any model.");
  if (t.cols() % block_elements(t.dtype) != 0) return bad("its width does not fill whole blocks.");
  if (t.data == nullptr || t.bytes / t.row_bytes() < t.rows()) {
    return bad("has fewer bytes than its shape asks for.");
  }
  if (s.row_begin < 0 || s.row_begin >= s.row_end || s.row_end > t.rows()) {
    return bad("rows " + std::to_string(s.row_begin) + " to " + std::to_string(s.row_end) +
               " are not all there.");
  }
  if (s.col_begin < 0 || s.col_begin >= s.col_end || s.col_end > t.cols()) {
    return bad("columns " + std::to_string(s.col_begin) + " to " + std::to_string(s.col_end) +
               " are not all there.");
  }
  if (s.col_begin % kUnit != 0 || (s.col_end % kUnit != 0 && s.col_end != t.cols())) {
    return bad("columns can only be cut at multiples of 32.");
  }
  if (s.col_end - s.col_begin != width) return bad("its width differs from its neighbours'.");
  return ok_status();
}

int64_t panel_bytes(const Segment& s, int64_t cols) {
  if (!s.quantised) {
    const bool wide = s.plain == PlainLayout::kF32 || s.plain == PlainLayout::kExact;
    return kPanelRows * cols * (wide ? 4 : 2);
  }
  const int64_t codes = kPanelRows * kUnit / (has_nibbles(s.codes) ? 2 : 1);
  const int64_t scale = has_f32_scales(s.codes) ? 4 : 2;
  return cols / kUnit * (codes + kPanelRows * scales_per_unit(s.codes) * scale);
}

Segment describe(const MatrixSlice& slice, WeightMode mode) {
  Segment s;
  s.rows = slice.row_end - slice.row_begin;
  const DType type = slice.tensor->dtype;
  if (mode == WeightMode::kExact) {
    s.plain = PlainLayout::kExact;
  } else if (!is_plain(type)) {
    s.quantised = true;
    s.codes = code_layout(type);
  } else {
    s.plain = type == DType::kF32   ? PlainLayout::kF32
              : type == DType::kF16 ? PlainLayout::kF16
                                    : PlainLayout::kBF16;
  }
  s.panel_stride = round_up(panel_bytes(s, slice.col_end - slice.col_begin), kCacheLine);
  return s;
}

// Copies the rows of one panel out of a slice. `rows` rows start at the slice's row `first`.
class PanelPacker {
 public:
  PanelPacker(const MatrixSlice& slice, const Segment& segment)
      : tensor_(*slice.tensor),
        segment_(segment),
        row_begin_(slice.row_begin),
        col_begin_(slice.col_begin),
        cols_(slice.col_end - slice.col_begin) {}

  void pack(int64_t first, std::byte* out) const {
    const int64_t rows = std::min(kPanelRows, segment_.rows - first);
    if (rows < kPanelRows) std::memset(out, 0, static_cast<size_t>(segment_.panel_stride));
    const std::byte* row = tensor_.data + (row_begin_ + first) * tensor_.row_bytes();
    if (!segment_.quantised) return pack_plain(row, rows, out);
    switch (tensor_.dtype) {
      case DType::kQ4_0: return pack_words<18, 2, 1, 4, 0>(row, rows, out);
      case DType::kQ4_1: return pack_words<20, 4, 2, 4, 0>(row, rows, out);
      case DType::kQ8_0: return pack_words<34, 2, 1, 8, 0x80808080U>(row, rows, out);
      default: return pack_units(row, rows, out);
    }
  }

 private:
  // Formats whose blocks hold f16 scales first and then codes in just our order: move them in words
  // of four codes.
  template <int kBlockBytes, int kCodesAt, int kScales, int kWords, uint32_t kFlip>
  void pack_words(const std::byte* row, int64_t rows, std::byte* out) const {
    const int64_t units = cols_ / kUnit;
    const int64_t row_bytes = tensor_.row_bytes();
    std::byte* scales = out + units * kWords * kPanelRows * 4;
    row += col_begin_ / kUnit * kBlockBytes;
    for (int64_t u = 0; u < units; ++u, row += kBlockBytes) {
      for (int64_t r = 0; r < rows; ++r) {
        const std::byte* block = row + r * row_bytes;
        for (int64_t s = 0; s < kScales; ++s) {
          std::memcpy(scales + (s * kPanelRows + r) * 2, block + 2 * s, 2);
        }
        for (int64_t w = 0; w < kWords; ++w) {
          uint32_t word = 0;
          std::memcpy(&word, block + kCodesAt + 4 * w, 4);
          word ^= kFlip;
          std::memcpy(out + (w * kPanelRows + r) * 4, &word, 4);
        }
      }
      out += kWords * kPanelRows * 4;
      scales += kScales * kPanelRows * 2;
    }
  }

  void pack_units(const std::byte* row, int64_t rows, std::byte* out) const {
    const bool nibbles = has_nibbles(segment_.codes);
    const bool wide = has_f32_scales(segment_.codes);
    const int64_t n_scales = scales_per_unit(segment_.codes);
    const int64_t units = cols_ / kUnit;
    const int64_t unit_bytes = kPanelRows * kUnit / (nibbles ? 2 : 1);
    std::byte* scales = out + units * unit_bytes;
    CodeUnit unit;
    for (int64_t u = 0; u < units; ++u, out += unit_bytes) {
      for (int64_t r = 0; r < rows; ++r) {
        read_codes(tensor_.dtype, row + r * tensor_.row_bytes(), col_begin_ / kUnit + u, unit);
        for (int64_t j = 0; j < (nibbles ? 4 : 8); ++j) {
          for (int64_t i = 0; i < 4; ++i) {
            const uint32_t high = nibbles ? unit.codes[16 + 4 * j + i] : 0U;
            out[(j * kPanelRows + r) * 4 + i] =
                static_cast<std::byte>(unit.codes[4 * j + i] | (high << 4));
          }
        }
        for (int64_t s = 0; s < n_scales; ++s) {
          const uint16_t half = f16_from_float(unit.scales[s]);
          std::byte* to = scales + (s * kPanelRows + r) * (wide ? 4 : 2);
          if (wide) {
            std::memcpy(to, &unit.scales[s], 4);
          } else {
            std::memcpy(to, &half, 2);
          }
        }
      }
      scales += n_scales * kPanelRows * (wide ? 4 : 2);
    }
  }

  void pack_plain(const std::byte* row, int64_t rows, std::byte* out) const {
    const int64_t row_bytes = tensor_.row_bytes();
    if (segment_.plain == PlainLayout::kExact) {
      std::vector<float> values(static_cast<size_t>(cols_));
      for (int64_t r = 0; r < rows; ++r) {
        dequantize_row(tensor_.dtype, row + r * row_bytes, col_begin_, col_begin_ + cols_,
                       values.data());
        transpose_row<4>(reinterpret_cast<const std::byte*>(values.data()), r, out);
      }
      return;
    }
    for (int64_t r = 0; r < rows; ++r) {
      if (segment_.plain == PlainLayout::kF32) {
        transpose_row<4>(row + r * row_bytes + col_begin_ * 4, r, out);
      } else {
        transpose_row<2>(row + r * row_bytes + col_begin_ * 2, r, out);
      }
    }
  }

  template <int kBytes>
  void transpose_row(const std::byte* from, int64_t r, std::byte* out) const {
    for (int64_t c = 0; c < cols_; ++c) {
      std::memcpy(out + (c * kPanelRows + r) * kBytes, from + c * kBytes, kBytes);
    }
  }

  const TensorView& tensor_;
  const Segment& segment_;
  int64_t row_begin_;
  int64_t col_begin_;
  int64_t cols_;
};

std::unique_ptr<std::byte, FreeDeleter> allocate(int64_t bytes) {
  // Large matrices on huge pages: a tenth of the page faults at start, fewer TLB misses later.
  const bool large = bytes >= 2 * kHugePage;
  const auto size = static_cast<size_t>(round_up(bytes, large ? kHugePage : kCacheLine));
  auto* p = static_cast<std::byte*>(
      std::aligned_alloc(static_cast<size_t>(large ? kHugePage : kCacheLine), size));
  if (p != nullptr && large) static_cast<void>(madvise(p, size, MADV_HUGEPAGE));  // a wish
  return std::unique_ptr<std::byte, FreeDeleter>(p);
}

}  // namespace

Result<std::unique_ptr<Matrix::Impl>> pack_matrix(std::span<const MatrixSlice> slices,
                                                  WeightMode mode, const LinearKernels& kernels,
                                                  Stream& stream) {
  if (slices.empty()) return fail(ErrorCode::kBadModel, "A matrix of no slices.");
  auto m = std::make_unique<Matrix::Impl>();
  m->kernels = &kernels;
  m->cols = slices.front().col_end - slices.front().col_begin;
  for (const MatrixSlice& slice : slices) {
    if (Status s = check_slice(slice, m->cols); !s.ok()) return s.error();
    Segment segment = describe(slice, mode);
    segment.row_begin = m->rows;
    segment.panel_begin = m->panels;
    segment.offset = m->bytes;
    m->rows += segment.rows;
    m->panels += segment.panels();
    m->bytes += segment.panels() * segment.panel_stride;
    m->any_quantised = m->any_quantised || segment.quantised;
    m->segments.push_back(segment);
  }
  m->storage = allocate(m->bytes);
  if (!m->storage) {
    return fail(ErrorCode::kOutOfMemory,
                "No memory for " + std::to_string(m->bytes) + " bytes of weights.");
  }
  for (size_t i = 0; i < slices.size(); ++i) {
    const Segment& segment = m->segments[i];
    const PanelPacker packer(slices[i], segment);
    std::byte* out = m->storage.get() + segment.offset;
    stream.parallel_for(segment.panels(), 8, [&](int64_t begin, int64_t end, int32_t /*thread*/) {
      for (int64_t p = begin; p < end; ++p) {
        packer.pack(p * kPanelRows, out + p * segment.panel_stride);
      }
    });
  }
  return m;
}

}  // namespace troupe::cpu
