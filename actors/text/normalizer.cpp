#include "actors/text/normalizer.h"

#include "gpu/base/check.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <algorithm>

namespace troupe {
namespace {

std::string nfc(std::string text) {
  const auto ascii = [](char c) { return (c & 0x80) == 0; };
  if (std::all_of(text.begin(), text.end(), ascii)) return text;
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = icu::Normalizer2::getNFCInstance(status);
  TROUPE_CHECK(U_SUCCESS(status)) << "ICU has no NFC data";
  std::string out;
  icu::StringByteSink<std::string> sink(&out);
  const icu::StringPiece piece(text.data(), static_cast<int32_t>(text.size()));
  normalizer->normalizeUTF8(0, piece, sink, nullptr, status);
  return U_SUCCESS(status) ? out : text;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  size_t at = 0;
  for (size_t hit = text.find(from); hit != std::string_view::npos; hit = text.find(from, at)) {
    out.append(text.substr(at, hit - at)).append(to);
    at = hit + from.size();
  }
  return out.append(text.substr(at));
}

}  // namespace

std::string normalize(const std::vector<NormalizerStep>& steps, std::string_view text,
                      bool at_start) {
  std::string out(text);
  for (const NormalizerStep& step : steps) {
    switch (step.kind) {
      case NormalizerStep::Kind::kNfc: out = nfc(std::move(out)); break;
      case NormalizerStep::Kind::kReplace:
        out = replace_all(out, step.pattern, step.content);
        break;
      case NormalizerStep::Kind::kPrepend: {
        const bool there = step.unless_there && out.starts_with(step.content);
        if (!out.empty() && !there && (at_start || !step.only_at_start)) {
          out.insert(0, step.content);
        }
        break;
      }
    }
  }
  return out;
}

}  // namespace troupe
