#include "http/sse.h"

#include "gpu/base/check.h"
#include "http/api/error.h"

namespace troupe {
namespace {

constexpr size_t kRoom = 10;  // eight hexadecimal digits and CR LF

}  // namespace

std::string sse_error(const Error& error) { return "data: " + error_json(error) + "\n\n"; }

void begin_chunk(std::string& buffer) { buffer.assign(kRoom, '\n'); }

std::string_view end_chunk(std::string& buffer, bool last) {
  TROUPE_CHECK(buffer.size() >= kRoom);
  constexpr std::string_view kLastChunk = "0\r\n\r\n";
  size_t size = buffer.size() - kRoom;
  if (size == 0) return last ? kLastChunk : std::string_view();
  TROUPE_CHECK(size <= UINT32_MAX) << size;
  size_t first = kRoom - 2;
  buffer[first] = '\r';  // the LF after it is there already
  for (; size > 0; size >>= 4) buffer[--first] = "0123456789abcdef"[size & 15];
  buffer += "\r\n";
  if (last) buffer += kLastChunk;
  return std::string_view(buffer).substr(first);
}

std::string_view chunk_payload(const std::string& buffer) {
  TROUPE_CHECK(buffer.size() >= kRoom);
  return std::string_view(buffer).substr(kRoom);
}

}  // namespace troupe
