#include "gpu/device/stream.h"

#include "gpu/base/check.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace troupe {
namespace {

// One word tells workers all they need: | generation 23 | open 1 | members inside 8 |. A job is
// written while the word is closed and empty; workers enter by counting themselves in while it is
// open. The caller takes part, closes the word when no work is left to hand out and waits only for
// those inside: a worker that sleeps or was descheduled never delays a job.
constexpr uint32_t kInside = 0xff;
constexpr uint32_t kOpen = 0x100;
constexpr uint32_t kGeneration = 0x200;
constexpr int32_t kMaxThreads = 255;

// Ops follow each other within microseconds; longer gaps are worth a sleep on shared cores.
constexpr std::chrono::microseconds kSpin{30};
constexpr int64_t kChunksPerThread = 4;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

struct Stream::Team {
  int32_t n_threads = 1;
  Call call;
  int64_t n = 0;
  int64_t chunk = 0;
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<uint32_t> word{0};
  std::atomic<bool> stopping{false};
  std::vector<std::thread> workers;

  void work(int32_t thread) {
    for (;;) {
      const int64_t begin = next.fetch_add(chunk, std::memory_order_relaxed);
      if (begin >= n) return;
      call.invoke(call.body, begin, std::min(begin + chunk, n), thread);
    }
  }

  /// Spins, then sleeps, until the word is open in a generation other than `seen`.
  uint32_t wait_for_job(uint32_t seen) {
    auto deadline = std::chrono::steady_clock::now() + kSpin;
    for (;;) {
      uint32_t now = 0;
      for (int i = 0; i < 32; ++i) {
        now = word.load(std::memory_order_acquire);
        if (stopping.load(std::memory_order_relaxed)) return now;
        if ((now & kOpen) != 0 && now / kGeneration != seen) return now;
        relax();
      }
      if (std::chrono::steady_clock::now() < deadline) continue;
      // Between jobs, or in one this worker has left: either way the next opening changes the word.
      word.wait(now, std::memory_order_acquire);
      deadline = std::chrono::steady_clock::now() + kSpin;
    }
  }

  void worker(int32_t thread) {
    uint32_t seen = 0;  // generation 0 is never opened first, see run()
    for (;;) {
      uint32_t now = wait_for_job(seen);
      if (stopping.load(std::memory_order_relaxed)) return;
      while ((now & kOpen) != 0) {
        if (!word.compare_exchange_weak(now, now + 1, std::memory_order_acquire)) continue;
        work(thread);
        word.fetch_sub(1, std::memory_order_release);
        break;
      }
      seen = now / kGeneration;
    }
  }

  void stop() {
    stopping.store(true);
    word.fetch_add(kGeneration);
    word.notify_all();
    for (auto& w : workers) w.join();
  }
};

Stream::Stream(int32_t n_threads, Isa isa) : isa_(isa), team_(std::make_unique<Team>()) {
  TROUPE_CHECK(n_threads >= 1 && n_threads <= kMaxThreads) << n_threads;
  team_->n_threads = n_threads;
  team_->workers.reserve(static_cast<size_t>(n_threads - 1));
  try {
    for (int32_t t = 1; t < n_threads; ++t)
      team_->workers.emplace_back([team = team_.get(), t] { team->worker(t); });
  } catch (const std::system_error& e) {
    team_->stop();
    throw DeviceError("cannot start " + std::to_string(n_threads) +
                      " compute threads: " + e.what());
  }
}

Stream::~Stream() { team_->stop(); }

int32_t Stream::n_threads() const { return team_->n_threads; }

void Stream::run(int64_t n, int64_t grain, Call call) {
  TROUPE_CHECK(grain >= 1) << grain;
  if (n <= 0) return;
  Team& team = *team_;
  if (team.n_threads == 1 || n <= grain) {
    call.invoke(call.body, 0, n, 0);
    return;
  }
  const int64_t units = (n + grain - 1) / grain;
  const int64_t parts = team.n_threads * kChunksPerThread;
  team.call = call;
  team.n = n;
  team.chunk = (units + parts - 1) / parts * grain;
  team.next.store(0, std::memory_order_relaxed);
  // Sequentially consistent, so that notify_all sees every worker that went to sleep on the old
  // word.
  const uint32_t closed = team.word.load(std::memory_order_relaxed);
  team.word.store((closed + kGeneration) | kOpen);
  team.word.notify_all();
  team.work(0);
  uint32_t now = team.word.fetch_and(~kOpen, std::memory_order_acq_rel);
  for (int spins = 0; (now & kInside) != 0; ++spins) {
    if (spins < 1000)
      relax();
    else
      std::this_thread::yield();  // the member inside may need this very core
    now = team.word.load(std::memory_order_acquire);
  }
}

}  // namespace troupe
