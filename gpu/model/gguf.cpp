#include "gpu/model/gguf.h"

#include "gpu/model/gguf_reader.h"
#include "gpu/model/mapped_file.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>
#include <utility>

namespace troupe {

static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies in memory");

namespace {

struct Contents {
  MappedFile file;
  std::map<std::string, GgufValue, std::less<>> metadata;
  std::map<std::string, TensorView, std::less<>> tensors;
};

// Far above any real file (a 405B model has 1,100 tensors; metadata keys are a few dozen).
constexpr uint64_t kMaxKeys = 1U << 16;
constexpr uint64_t kMaxTensors = 1U << 18;
constexpr uint64_t kMaxNameBytes = 1U << 16;
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kDefaultAlignment = 32;
constexpr auto kMaxInt64 = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());

/// ggml's type number -> ours; what we cannot read has a name at best.
struct GgmlType {
  uint32_t number;
  std::string_view name;
  std::optional<DType> dtype;
};
constexpr GgmlType kGgmlTypes[] = {
    {0, "F32", DType::kF32},      {1, "F16", DType::kF16},       {2, "Q4_0", DType::kQ4_0},
    {3, "Q4_1", DType::kQ4_1},    {6, "Q5_0", DType::kQ5_0},     {7, "Q5_1", DType::kQ5_1},
    {8, "Q8_0", DType::kQ8_0},    {9, "Q8_1", std::nullopt},     {10, "Q2_K", std::nullopt},
    {11, "Q3_K", std::nullopt},   {12, "Q4_K", DType::kQ4_K},    {13, "Q5_K", std::nullopt},
    {14, "Q6_K", DType::kQ6_K},   {15, "Q8_K", std::nullopt},    {16, "IQ2_XXS", std::nullopt},
    {17, "IQ2_XS", std::nullopt}, {18, "IQ3_XXS", std::nullopt}, {19, "IQ1_S", std::nullopt},
    {20, "IQ4_NL", std::nullopt}, {21, "IQ3_S", std::nullopt},   {22, "IQ2_S", std::nullopt},
    {23, "IQ4_XS", std::nullopt}, {24, "I8", std::nullopt},      {25, "I16", std::nullopt},
    {26, "I32", std::nullopt},    {27, "I64", std::nullopt},     {28, "F64", std::nullopt},
    {29, "IQ1_M", std::nullopt},  {30, "BF16", DType::kBF16},    {34, "TQ1_0", std::nullopt},
    {35, "TQ2_0", std::nullopt},  {39, "MXFP4", std::nullopt},
};

/// A tensor's entry in the header. `offset` counts from the start of the data section.
struct Entry {
  TensorView view;
  uint64_t offset = 0;
};

bool read_shape(GgufReader& in, Entry& entry, uint64_t& elements) {
  uint32_t n_dims = 0;
  if (!in.number(n_dims)) return false;
  if (n_dims == 0 || n_dims > kMaxDimensions) {
    return in.damaged("it has " + std::to_string(n_dims) + " dimensions");
  }
  elements = 1;
  for (uint32_t i = 0; i < n_dims; ++i) {
    uint64_t dim = 0;
    if (!in.number(dim)) return false;
    if (dim == 0 || dim > kMaxInt64 / elements) {
      return in.damaged("its dimensions are zero or overflow");
    }
    elements *= dim;
    entry.view.shape.push_back(static_cast<int64_t>(dim));
  }
  std::reverse(entry.view.shape.begin(), entry.view.shape.end());
  return true;
}

bool read_entry(GgufReader& in, Entry& entry) {
  uint64_t elements = 0;
  uint32_t number = 0;
  if (!read_shape(in, entry, elements) || !in.number(number) || !in.number(entry.offset)) {
    return false;
  }
  const auto* type = std::find_if(std::begin(kGgmlTypes), std::end(kGgmlTypes),
                                  [&](const GgmlType& t) { return t.number == number; });
  if (type == std::end(kGgmlTypes) || !type->dtype) {
    const std::string name =
        type == std::end(kGgmlTypes) ? std::to_string(number) : std::string(type->name);
    return in.unsupported(
        "its type " + name +
        " is not supported: use a file in F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, "
        "Q8_0, Q4_K or Q6_K");
  }
  entry.view.dtype = *type->dtype;
  const auto block = static_cast<uint64_t>(block_elements(entry.view.dtype));
  const auto block_size = static_cast<uint64_t>(block_bytes(entry.view.dtype));
  if (static_cast<uint64_t>(entry.view.cols()) % block != 0) {
    return in.damaged("its rows of " + std::to_string(entry.view.cols()) +
                      " are no multiple of the block of " + std::string(type->name));
  }
  if (elements / block > kMaxInt64 / block_size) return in.damaged("its size overflows");
  entry.view.bytes = static_cast<int64_t>(elements / block * block_size);
  return true;
}

class Parser {
 public:
  explicit Parser(Contents& out) : out_(out), in_(out.file.bytes()) {}

  Status run() {
    if (auto status = read_counts(); !status.ok()) return status;
    if (auto status = read_metadata(); !status.ok()) return status;
    if (auto status = read_alignment(); !status.ok()) return status;
    if (auto status = read_entries(); !status.ok()) return status;
    return place_tensors();
  }

 private:
  [[nodiscard]] Error bad(const std::string& what) const {
    return fail(ErrorCode::kBadModel, out_.file.path() + ": " + what);
  }
  [[nodiscard]] Error damaged(const std::string& what) const {
    return bad(what + ": the file is damaged or incomplete, fetch it again");
  }

  Status read_counts() {
    uint32_t magic = 0;
    uint32_t version = 0;
    if (!in_.number(magic) || magic != 0x46554747U) return bad("not a GGUF file (no magic bytes)");
    if (!in_.number(version)) return bad(in_.reason());
    if (version != 2 && version != 3) {
      const bool swapped = version != 0 && (version & 0xffffU) == 0;
      return bad(swapped ? "a big-endian GGUF file: convert it to little-endian"
                         : "GGUF version " + std::to_string(version) +
                               " is not supported: convert the model to version 3");
    }
    if (!in_.number(n_tensors_) || !in_.number(n_keys_)) return bad(in_.reason());
    if (n_keys_ > kMaxKeys || n_tensors_ > kMaxTensors) {
      return damaged(std::to_string(n_keys_) + " metadata keys and " + std::to_string(n_tensors_) +
                     " tensors are more than a model has");
    }
    return ok_status();
  }

  Status read_metadata() {
    for (uint64_t i = 0; i < n_keys_; ++i) {
      std::string key;
      GgufValue value;
      if (!in_.text(key, kMaxNameBytes)) {
        return bad("name of metadata key " + std::to_string(i) + ": " + in_.reason());
      }
      if (!in_.value(value)) {
        return bad("metadata key '" + printable(key) + "': " + in_.reason());
      }
      const auto [at, is_new] = out_.metadata.try_emplace(std::move(key), std::move(value));
      if (!is_new) return damaged("metadata key '" + printable(at->first) + "' occurs twice");
    }
    return ok_status();
  }

  Status read_alignment() {
    const auto it = out_.metadata.find("general.alignment");
    if (it == out_.metadata.end()) return ok_status();
    const auto* value = std::get_if<int64_t>(&it->second);
    // 8 and up: the format's own rule, and what lets a block's fields be read in place.
    if (value == nullptr || *value < 8 || !std::has_single_bit(static_cast<uint64_t>(*value))) {
      return damaged("metadata key 'general.alignment' is not a power of two from 8 up");
    }
    alignment_ = static_cast<uint64_t>(*value);
    return ok_status();
  }

  Status read_entries() {
    for (uint64_t i = 0; i < n_tensors_; ++i) {
      Entry entry;
      if (!in_.text(entry.view.name, kMaxNameBytes)) {
        return bad("name of tensor " + std::to_string(i) + ": " + in_.reason());
      }
      const std::string what = "tensor '" + printable(entry.view.name) + "'";
      if (!read_entry(in_, entry)) {
        return bad(what + ": " + in_.reason());
      }
      if (entry.offset % alignment_ != 0) {
        return damaged(what + ": its offset is not aligned to " + std::to_string(alignment_));
      }
      entries_.push_back(std::move(entry));
    }
    return ok_status();
  }

  Status place_tensors() {
    if (entries_.empty()) return ok_status();
    const uint64_t size = out_.file.bytes().size();
    const uint64_t rest = in_.position() % alignment_;
    const uint64_t padding = rest == 0 ? 0 : alignment_ - rest;
    if (padding > in_.left()) return damaged("the file ends before its tensor data");
    const uint64_t start = in_.position() + padding;
    std::sort(entries_.begin(), entries_.end(),
              [](const Entry& a, const Entry& b) { return a.offset < b.offset; });
    uint64_t taken = 0;
    for (Entry& entry : entries_) {
      const std::string what = "tensor '" + printable(entry.view.name) + "'";
      const auto bytes = static_cast<uint64_t>(entry.view.bytes);
      if (entry.offset > size - start || bytes > size - start - entry.offset) {
        return damaged(what + ": its data reaches past the end of the file");
      }
      if (entry.offset < taken) return damaged(what + ": its data overlaps another tensor's");
      taken = entry.offset + bytes;
      entry.view.data = out_.file.bytes().data() + start + entry.offset;
      std::string name = entry.view.name;
      if (!out_.tensors.try_emplace(std::move(name), std::move(entry.view)).second) {
        return damaged(what + " occurs twice");
      }
    }
    return ok_status();
  }

  Contents& out_;
  GgufReader in_;
  uint64_t n_tensors_ = 0;
  uint64_t n_keys_ = 0;
  uint64_t alignment_ = kDefaultAlignment;
  std::vector<Entry> entries_;
};

}  // namespace

struct GgufFile::Impl {
  Contents contents;
};

GgufFile::GgufFile() = default;
GgufFile::~GgufFile() = default;

Result<std::unique_ptr<GgufFile>> GgufFile::open(const std::string& path) {
  Result<MappedFile> mapped = MappedFile::open(path);
  if (!mapped) return mapped.error();
  std::unique_ptr<GgufFile> file(new GgufFile());
  file->impl_ = std::make_unique<Impl>(Impl{{std::move(mapped).value(), {}, {}}});
  if (const Status status = Parser(file->impl_->contents).run(); !status.ok())
    return status.error();
  return file;
}

const std::string& GgufFile::path() const { return impl_->contents.file.path(); }
const std::map<std::string, GgufValue, std::less<>>& GgufFile::metadata() const {
  return impl_->contents.metadata;
}
const std::map<std::string, TensorView, std::less<>>& GgufFile::tensors() const {
  return impl_->contents.tensors;
}

}  // namespace troupe
