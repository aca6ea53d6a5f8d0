#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

namespace troupe {

/// How many tokens requests of a class go on to produce, learnt from what they really did.
///
/// A discrete hazard model (Kaplan-Meier with a prior): the axis of output lengths is cut into
/// bins; per bin it counts how many requests reached it and how many ended in it by themselves.
/// Requests that still run, hit max_tokens or were cancelled count as having reached their bins and
/// nothing more, so the first to finish, which are the short ones, do not bias the estimate. A
/// class (endpoint, prompt length) with little data leans on all requests together. Of those, a bin
/// with little data leans on the bin before it: that many tokens end a request as likely as the
/// same number just before. So lengths that nobody has reached yet are believed to go on like the
/// longest known ones. In the beginning a request ends once in kPriorMean tokens. Old observations
/// fade: a full bin is halved.
class OutputEstimator {
 public:
  static constexpr int32_t kBins = 144;  // to 2^21 tokens
  static constexpr int32_t kPriorMean = 6144;

  OutputEstimator();

  [[nodiscard]] static int32_t class_of(int32_t endpoint, int32_t n_prompt) {
    const auto bits = static_cast<int32_t>(std::bit_width(static_cast<uint32_t>(n_prompt)));
    const int32_t length = bits / 2;  // a factor of 4 each
    return (endpoint & 3) * 8 + (length < 7 ? length : 7);
  }

  /// The bin of an output length: width 2 up to 16, then eight to a doubling. O(1).
  [[nodiscard]] static int32_t bin(int32_t length) {
    if (length < 16) return length / 2;
    const auto octave = static_cast<int32_t>(std::bit_width(static_cast<uint32_t>(length))) - 1;
    const int32_t b = (octave - 3) * 8 + ((length >> (octave - 3)) & 7);
    return b < kBins ? b : kBins - 1;
  }
  /// The first length of a bin; edge(kBins) ends the last.
  [[nodiscard]] static int32_t edge(int32_t bin) {
    if (bin < 8) return bin * 2;
    return (8 + bin % 8) << (bin / 8);
  }

  /// A request of this class has now produced edge(bin) tokens.
  void reached(int32_t request_class, int32_t bin);
  /// It ended by itself with so many.
  void ended(int32_t request_class, int32_t length);

  /// P(length > d + t) / P(length > d) for one class, as a table lookup.
  class Survival {
   public:
    explicit Survival(const float* at_edges) : at_edges_(at_edges) {}
    /// P(length > x), linear between the edges of a bin.
    [[nodiscard]] float at(int32_t x) const {
      const int32_t b = bin(x);
      const auto low = at_edges_[b];
      const auto part = static_cast<float>(x - edge(b)) / static_cast<float>(edge(b + 1) - edge(b));
      return low + (at_edges_[b + 1] - low) * (part < 1 ? part : 1);
    }

   private:
    const float* at_edges_;
  };
  /// Valid until the next call of a non-const function.
  [[nodiscard]] Survival survival(int32_t request_class);
  /// Expected further tokens of a request that produced `produced`, at most `left`.
  [[nodiscard]] double expected(int32_t request_class, int32_t produced, int32_t left);

 private:
  static constexpr int32_t kStale = 64;  // so many of them make it be made anew
  struct Counts {
    std::array<float, kBins> reached{};
    std::array<float, kBins> ended{};
    std::array<float, kBins + 1> survival{};
    int32_t news = kStale;  // observations since the table was made
  };
  static constexpr int32_t kClasses = 32;
  static void observe(Counts& counts, int32_t bin, bool end);
  void rebuild(Counts& counts);

  std::vector<Counts> classes_;
  Counts all_;
};

}  // namespace troupe
