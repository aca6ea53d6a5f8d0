#include "gpu/model/safetensors.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace troupe {
namespace {

// The reference implementation's limit.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxDimensions = 8;
constexpr auto kMaxInt64 = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());

struct StoredType {
  std::string_view name;
  uint64_t bytes;
  std::optional<DType> dtype;
};
constexpr StoredType kTypes[] = {
    {"F32", 4, DType::kF32},      {"F16", 2, DType::kF16},        {"BF16", 2, DType::kBF16},
    {"F64", 8, std::nullopt},     {"F8_E4M3", 1, DType::kF8E4M3}, {"F8_E5M2", 1, std::nullopt},
    {"F8_E8M0", 1, std::nullopt}, {"I64", 8, std::nullopt},       {"I32", 4, std::nullopt},
    {"I16", 2, std::nullopt},     {"I8", 1, std::nullopt},        {"U64", 8, std::nullopt},
    {"U32", 4, std::nullopt},     {"U16", 2, std::nullopt},       {"U8", 1, std::nullopt},
    {"BOOL", 1, std::nullopt},    {"C64", 8, std::nullopt},
};

/// One header entry as written.
struct Entry {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  std::vector<uint64_t> offsets;
  bool has_dtype = false;
  bool has_shape = false;
  bool has_offsets = false;
};

/// Takes the header's events straight into entries: no tree, so depth and duplicate names are
/// refused where they occur and memory stays in proportion to the header.
class HeaderSax : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<Entry> entries;
  std::string problem;

  bool start_object(std::size_t /*elements*/) override {
    if (level_ == Level::kTop) return enter(Level::kFile);
    if (level_ == Level::kFile && at_value_) {
      at_value_ = false;
      return enter(metadata_ ? Level::kMetadata : Level::kTensor);
    }
    return unexpected("an object");
  }
  bool end_object() override {
    if (level_ == Level::kTensor) {
      const Entry& e = entries.back();
      if (!e.has_dtype || !e.has_shape || !e.has_offsets) {
        return stop("lacks dtype, shape or data_offsets");
      }
    }
    return enter(level_ == Level::kFile ? Level::kEnd : Level::kFile);
  }
  bool key(std::string& name) override {
    switch (level_) {
      case Level::kFile:
        at_value_ = true;
        metadata_ = name == "__metadata__";
        if (!metadata_) entries.emplace_back().name = name;
        return true;
      case Level::kTensor: return field(name);
      default: return true;
    }
  }
  bool string(std::string& text) override {
    if (level_ == Level::kMetadata) return true;
    if (level_ != Level::kTensor || field_ != Field::kDType) return unexpected("a text");
    field_ = Field::kNone;
    entries.back().dtype = text;
    return true;
  }
  bool start_array(std::size_t /*elements*/) override {
    if (level_ != Level::kTensor || (field_ != Field::kShape && field_ != Field::kOffsets)) {
      return unexpected("a list");
    }
    return enter(Level::kList);
  }
  bool end_array() override {
    field_ = Field::kNone;
    return enter(Level::kTensor);
  }
  bool number_unsigned(number_unsigned_t n) override {
    if (level_ != Level::kList) return unexpected("a number");
    auto& list = field_ == Field::kShape ? entries.back().shape : entries.back().offsets;
    if (list.size() >= kMaxDimensions) return stop("has a list that is too long");
    list.push_back(n);
    return true;
  }
  bool number_integer(number_integer_t /*n*/) override { return unexpected("a negative number"); }
  bool number_float(number_float_t /*n*/, const string_t& text) override {
    return unexpected("the number " + printable(text));
  }
  bool null() override { return unexpected("null"); }
  bool boolean(bool /*value*/) override { return unexpected("a truth value"); }
  bool binary(binary_t& /*value*/) override { return unexpected("binary data"); }
  bool parse_error(std::size_t at, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    problem = "its header is no valid JSON at byte " + std::to_string(at);
    return false;
  }

 private:
  enum class Level { kTop, kFile, kMetadata, kTensor, kList, kEnd };
  enum class Field { kNone, kDType, kShape, kOffsets };

  bool enter(Level level) {
    level_ = level;
    return true;
  }
  bool stop(const std::string& what) {
    problem = entries.empty() || metadata_
                  ? "its header " + what
                  : "tensor '" + printable(entries.back().name) + "': its entry " + what;
    return false;
  }
  bool unexpected(const std::string& what) { return stop("has " + what + " in the wrong place"); }

  bool field(const std::string& name) {
    Entry& e = entries.back();
    bool* seen = nullptr;
    if (name == "dtype") {
      field_ = Field::kDType;
      seen = &e.has_dtype;
    } else if (name == "shape") {
      field_ = Field::kShape;
      seen = &e.has_shape;
    } else if (name == "data_offsets") {
      field_ = Field::kOffsets;
      seen = &e.has_offsets;
    } else {
      return stop("has the unknown field '" + printable(name) + "'");
    }
    if (std::exchange(*seen, true)) return stop("has a field twice");
    return true;
  }

  Level level_ = Level::kTop;
  Field field_ = Field::kNone;
  bool at_value_ = false;
  bool metadata_ = false;
};

/// Bytes that `e` needs by its shape, or nothing when that overflows.
std::optional<uint64_t> byte_count(const Entry& e, uint64_t element) {
  uint64_t bytes = element;
  for (const uint64_t d : e.shape) {
    if (d > kMaxInt64 || (d != 0 && bytes > kMaxInt64 / d)) return std::nullopt;
    bytes *= d;
  }
  return bytes;
}

}  // namespace

Status SafetensorsFile::parse() {
  const auto bad = [&](const std::string& what) {
    return fail(ErrorCode::kBadModel,
                path() + ": " + what + ": the file is damaged or incomplete, fetch it again");
  };
  const auto bytes = file_.bytes();
  uint64_t header_size = 0;
  if (bytes.size() < sizeof header_size) return bad("too short for a safetensors file");
  std::memcpy(&header_size, bytes.data(), sizeof header_size);
  const uint64_t after_length = bytes.size() - sizeof header_size;
  if (header_size < 2 || header_size > kMaxHeaderBytes || header_size > after_length) {
    return bad("a header of " + std::to_string(header_size) + " bytes does not fit");
  }
  const auto* text = reinterpret_cast<const char*>(bytes.data() + sizeof header_size);
  if (*text != '{') return bad("its header is no JSON object");
  HeaderSax sax;
  if (!nlohmann::json::sax_parse(text, text + header_size, &sax)) return bad(sax.problem);

  const std::byte* data = bytes.data() + sizeof header_size + header_size;
  const uint64_t data_size = after_length - header_size;
  for (const Entry& e : sax.entries) {
    if (e.offsets.size() != 2 || e.offsets[0] > e.offsets[1] || e.offsets[1] > data_size) {
      return bad("tensor '" + printable(e.name) + "': its data does not lie in the file");
    }
  }
  std::sort(sax.entries.begin(), sax.entries.end(),
            [](const Entry& a, const Entry& b) { return a.offsets < b.offsets; });
  uint64_t taken = 0;
  for (Entry& e : sax.entries) {
    const std::string what = "tensor '" + printable(e.name) + "'";
    const auto* type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                    [&](const StoredType& t) { return t.name == e.dtype; });
    if (type == std::end(kTypes)) {
      return fail(ErrorCode::kBadModel, path() + ": " + what + ": its type '" + printable(e.dtype) +
                                            "' is unknown: convert the model to BF16");
    }
    const uint64_t begin = e.offsets[0];
    const uint64_t size = e.offsets[1] - begin;
    if (byte_count(e, type->bytes) != size) {
      return bad(what + ": its shape does not match its " + std::to_string(size) + " bytes");
    }
    if (begin != taken) return bad(what + ": its data overlaps another's or leaves a gap");
    taken = e.offsets[1];
    bool is_new = false;
    if (!type->dtype) {
      is_new = tensors_.count(e.name) == 0 && unsupported_.try_emplace(e.name, e.dtype).second;
    } else {
      TensorView view;
      view.name = e.name;
      view.dtype = *type->dtype;
      for (const uint64_t d : e.shape) view.shape.push_back(static_cast<int64_t>(d));
      view.data = data + begin;
      view.bytes = static_cast<int64_t>(size);
      if (reinterpret_cast<uintptr_t>(view.data) % type->bytes != 0) {
        return fail(ErrorCode::kBadModel,
                    path() + ": " + what +
                        ": its data is not aligned: save the model again with safetensors >= 0.3");
      }
      is_new = unsupported_.count(e.name) == 0 &&
               tensors_.try_emplace(std::move(e.name), std::move(view)).second;
    }
    if (!is_new) return bad(what + " occurs twice");
  }
  if (taken != data_size) return bad("bytes after its last tensor");
  return ok_status();
}

Result<std::unique_ptr<SafetensorsFile>> SafetensorsFile::open(const std::string& path) {
  Result<MappedFile> mapped = MappedFile::open(path);
  if (!mapped) return mapped.error();
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(std::move(mapped).value()));
  if (const Status status = file->parse(); !status.ok()) return status.error();
  return file;
}

}  // namespace troupe
