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

/// The payload appended since begin_chunk(), framed as one chunk of Transfer-Encoding: chunked;
/// with `last` also the end of the body. A view into `buffer`; empty if there is nothing to send.
[[nodiscard]] std::string_view end_chunk(std::string& buffer, bool last);

/// The payload appended since begin_chunk(), as it is.
[[nodiscard]] std::string_view chunk_payload(const std::string& buffer);

}  // namespace troupe
