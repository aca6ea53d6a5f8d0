#pragma once

#include "actors/router/router.h"

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>

/// The router's log. Header: "TRPLOG", one byte of version, the RouterLimits as varints. Then
/// records: a tag byte (kind below, flags above), the time since the record before unless
/// kSameTime, the kind's fields. Numbers are little-endian base-128 varints, signed ones zigzag.
/// A log is closed by an end record; without it the recorder did not get to its end.
namespace troupe::log {

inline constexpr std::string_view kMagic = "TRPLOG";
inline constexpr uint8_t kVersion = 2;

enum class Kind : uint8_t {
  kEnd = 0,
  kSubmit = 1,
  kCancel = 2,
  kFinish = 3,
  kReplicaReady = 4,
  kReplicaLost = 5,
  kApply = 6,
  kTick = 7,
  kDrain = 8,
  kPlan = 9,
  kResetCache = 10,
};
inline constexpr uint8_t kKindMask = 0x0F;
inline constexpr uint8_t kSameTime = 0x10;         // all kinds
inline constexpr uint8_t kNeutralSampling = 0x20;  // kSubmit: only the seed is not the default
inline constexpr uint8_t kNeutralRequest = 0x40;   // kSubmit: no priority, tenant, salt, targets
inline constexpr uint8_t kSameJob = 0x20;          // kApply: as the kApply before
inline constexpr uint8_t kNextStep = 0x40;         // kApply: one after the job's last
inline constexpr uint8_t kFailures = 0x80;         // kApply: a byte of flags follows each token
inline constexpr uint8_t kNothing = 0x20;  // kPlan: the decision is empty, no digest follows

/// Appends numbers to a record.
class Writer {
 public:
  void byte(uint8_t v) { out_.push_back(static_cast<char>(v)); }
  void number(uint64_t v) {
    while (v >= 0x80) {
      byte(static_cast<uint8_t>(v | 0x80));
      v >>= 7;
    }
    byte(static_cast<uint8_t>(v));
  }
  void integer(int64_t v) {
    number((static_cast<uint64_t>(v) << 1) ^ static_cast<uint64_t>(v >> 63));
  }
  void real(float v) { word(std::bit_cast<uint32_t>(v)); }
  void real(double v) {
    const auto bits = std::bit_cast<uint64_t>(v);
    word(static_cast<uint32_t>(bits));
    word(static_cast<uint32_t>(bits >> 32));
  }
  void word(uint32_t v) {
    for (int i = 0; i < 4; ++i) byte(static_cast<uint8_t>(v >> (8 * i)));
  }
  [[nodiscard]] std::string& text() { return out_; }
  [[nodiscard]] const std::string& text() const { return out_; }

 private:
  std::string out_;
};

/// A number over everything in a decision that does not depend on the device's numbers (log
/// probabilities): equal decisions have equal digests.
[[nodiscard]] uint32_t decision_digest(const Decision& decision);
[[nodiscard]] inline bool is_empty(const Decision& d) {
  return d.plans.empty() && d.updates.empty();
}

}  // namespace troupe::log
