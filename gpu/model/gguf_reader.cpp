#include "gpu/model/gguf_reader.h"

#include <limits>
#include <type_traits>
#include <vector>

namespace troupe {
namespace {

// A vocabulary has some 10^5 entries and a merge list 10^6 at most.
constexpr uint64_t kMaxElements = 1U << 22;
constexpr auto kMaxInt64 = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());

enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

/// One number of the file's type Raw as our wider type Out.
template <class Raw, class Out>
bool read_as(GgufReader& in, Out& out) {
  Raw raw = {};
  if (!in.number(raw)) return false;
  if constexpr (std::is_same_v<Raw, uint64_t>) {
    if (raw > kMaxInt64) return in.damaged("the number " + std::to_string(raw) + " is too large");
  }
  out = static_cast<Out>(raw);
  return true;
}

bool read_int8(GgufReader& in, int64_t& out) {
  uint8_t raw = 0;
  if (!in.number(raw)) return false;
  out = raw < 128 ? raw : raw - 256;
  return true;
}

bool read_bool(GgufReader& in, bool& out) {
  uint8_t raw = 0;
  if (!in.number(raw)) return false;
  if (raw > 1) return in.damaged("a truth value is " + std::to_string(raw));
  out = raw == 1;
  return true;
}

bool read_text(GgufReader& in, std::string& out) { return in.text(out, in.left()); }

template <class Out>
bool read_scalar(GgufReader& in, GgufValue& value, bool (*read)(GgufReader&, Out&)) {
  Out out = {};
  if (!read(in, out)) return false;
  value = std::move(out);
  return true;
}

/// `count` elements that take at least `element_bytes` each in the file, so that the file's size
/// bounds what is allocated.
template <class Out>
bool read_elements(GgufReader& in, GgufValue& value, uint64_t count, uint64_t element_bytes,
                   bool (*read)(GgufReader&, Out&)) {
  if (count > in.left() / element_bytes || count > kMaxElements) {
    return in.damaged("an array of " + std::to_string(count) + " elements does not fit");
  }
  std::vector<Out> out;
  out.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    Out element = {};
    if (!read(in, element)) return false;
    out.push_back(std::move(element));
  }
  value = std::move(out);
  return true;
}

bool read_array(GgufReader& in, GgufValue& value) {
  uint32_t type = 0;
  uint64_t count = 0;
  if (!in.number(type) || !in.number(count)) return false;
  switch (type) {
    case kUint8: return read_elements<int64_t>(in, value, count, 1, read_as<uint8_t>);
    case kInt8: return read_elements<int64_t>(in, value, count, 1, read_int8);
    case kUint16: return read_elements<int64_t>(in, value, count, 2, read_as<uint16_t>);
    case kInt16: return read_elements<int64_t>(in, value, count, 2, read_as<int16_t>);
    case kUint32: return read_elements<int64_t>(in, value, count, 4, read_as<uint32_t>);
    case kInt32: return read_elements<int64_t>(in, value, count, 4, read_as<int32_t>);
    case kUint64: return read_elements<int64_t>(in, value, count, 8, read_as<uint64_t>);
    case kInt64: return read_elements<int64_t>(in, value, count, 8, read_as<int64_t>);
    case kFloat32: return read_elements<double>(in, value, count, 4, read_as<float>);
    case kFloat64: return read_elements<double>(in, value, count, 8, read_as<double>);
    case kBool: return read_elements<bool>(in, value, count, 1, read_bool);
    case kString: return read_elements<std::string>(in, value, count, 8, read_text);
    case kArray:
      return in.unsupported("arrays of arrays are not supported: convert the model anew");
    default: return in.damaged("unknown element type " + std::to_string(type));
  }
}

}  // namespace

bool GgufReader::value(GgufValue& out) {
  uint32_t type = 0;
  if (!number(type)) return false;
  switch (type) {
    case kUint8: return read_scalar<int64_t>(*this, out, read_as<uint8_t>);
    case kInt8: return read_scalar<int64_t>(*this, out, read_int8);
    case kUint16: return read_scalar<int64_t>(*this, out, read_as<uint16_t>);
    case kInt16: return read_scalar<int64_t>(*this, out, read_as<int16_t>);
    case kUint32: return read_scalar<int64_t>(*this, out, read_as<uint32_t>);
    case kInt32: return read_scalar<int64_t>(*this, out, read_as<int32_t>);
    case kUint64: return read_scalar<int64_t>(*this, out, read_as<uint64_t>);
    case kInt64: return read_scalar<int64_t>(*this, out, read_as<int64_t>);
    case kFloat32: return read_scalar<double>(*this, out, read_as<float>);
    case kFloat64: return read_scalar<double>(*this, out, read_as<double>);
    case kBool: return read_scalar<bool>(*this, out, read_bool);
    case kString: return read_scalar<std::string>(*this, out, read_text);
    case kArray: return read_array(*this, out);
    default: return damaged("unknown value type " + std::to_string(type));
  }
}

}  // namespace troupe
