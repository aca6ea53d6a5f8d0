#pragma once

#include <chrono>
#include <cstdint>
#include <thread>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace troupe {

/// One wait for a peer: spins some tens of microseconds, because peers mostly arrive within that,
/// then gives the core away, and sleeps once the peer is so late that it must be stuck.
class SpinWait {
 public:
  /// Does not spin at all when `n_ranks` are more than there are cores: the peer needs this one.
  explicit SpinWait(int32_t n_ranks)
      : spins_(static_cast<uint32_t>(n_ranks) <= std::thread::hardware_concurrency() ? kSpins : 0) {
  }

  void pause() {
    ++count_;
    if (count_ <= spins_) {
#if defined(__x86_64__)
      _mm_pause();
#endif
    } else if (count_ <= spins_ + kYields) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }

 private:
  static constexpr uint32_t kSpins =
      1000;  // 15-60 us: pause is 15 ns on Zen 4, 60 ns on Sapphire Rapids
  static constexpr uint32_t kYields = 20000;  // 10 ms and more
  uint32_t spins_;
  uint32_t count_ = 0;
};

}  // namespace troupe
