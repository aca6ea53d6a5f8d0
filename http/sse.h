#pragma once

#include "gpu/base/result.h"

#include <string>
#include <string_view>

namespace troupe {

/// The event that ends an OpenAI stream.
inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";

/// An error inside a stream that has begun: the last event, without [DONE].
[[nodiscard]] std::string sse_error(const Error& error);

/// Makes room at the start of `buffer` for a chunk header, so that payload appended afterwards can
/// be sent with its framing in one write.
void begin_chunk(std::string& buffer);

/// Frames what was appended since begin_chunk() as one chunk of Transfer-Encoding: chunked and
/// returns the bytes to send (a view into `buffer`); empty if nothing was appended.
[[nodiscard]] std::string_view end_chunk(std::string& buffer);

/// What follows the last chunk.
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

}  // namespace troupe
