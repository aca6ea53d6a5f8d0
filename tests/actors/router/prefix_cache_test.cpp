#include "actors/router/prefix_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

namespace troupe {
namespace {

using Tokens = std::vector<int32_t>;

/// A sequence as the router keeps it.
struct Sequence {
  Tokens tokens;
  Tokens slots;
  PrefixCache::Ref ref = nullptr;
  int32_t in_tree = 0;
  bool own_copies = false;
  uint64_t salt = 0;
};

class PrefixCacheTest : public testing::Test {
 protected:
  Sequence start(const Tokens& tokens, uint64_t salt = 0) {
    Sequence s;
    s.tokens = tokens;
    s.salt = salt;
    cache.extend(std::span(s.tokens).first(tokens.size() - 1), {salt}, s.slots, s.ref);
    s.in_tree = static_cast<int32_t>(s.slots.size());
    return s;
  }
  // Computes the next n tokens and inserts them.
  void chunk(Sequence& s, int32_t n) {
    if (slots.free() < n) cache.evict(n - slots.free(), slots);
    slots.take(n, s.slots);
    if (s.own_copies) return;
    s.in_tree = cache.insert(std::span(s.tokens).first(s.slots.size()), s.slots, s.in_tree,
                             {s.salt}, s.ref);
    s.own_copies = s.in_tree < static_cast<int32_t>(s.slots.size());
  }
  void compute(Sequence& s) { chunk(s, static_cast<int32_t>(s.tokens.size() - s.slots.size())); }
  void finish(Sequence& s) {
    const size_t computed = std::min(s.tokens.size(), s.slots.size());
    cache.release(std::span(s.tokens).first(computed), s.slots, s.in_tree, {s.salt}, s.ref, slots);
    s = {};
  }
  int32_t cached(const Tokens& tokens, uint64_t salt = 0) const {
    return cache.peek(tokens, {salt}).cached;
  }
  void check(const std::vector<const Sequence*>& live) const {
    std::vector<PrefixCache::Ref> refs;
    std::set<int32_t> used;
    for (const Sequence* s : live) {
      if (s->ref != nullptr) refs.push_back(s->ref);
      for (size_t i = static_cast<size_t>(s->in_tree); i < s->slots.size(); ++i) {
        EXPECT_TRUE(used.insert(s->slots[i]).second);
      }
    }
    cache.check(refs);
    cache.for_each_slot([&](int32_t slot) { EXPECT_TRUE(used.insert(slot).second) << slot; });
    EXPECT_EQ(static_cast<int32_t>(used.size()) + slots.free(), slots.total());
  }

  SlotAllocator slots{64};
  PrefixCache cache;
};

TEST_F(PrefixCacheTest, AFinishedSequenceIsFoundAgain) {
  Sequence a = start({1, 2, 3, 4, 5});
  compute(a);
  const Tokens its = a.slots;
  finish(a);
  EXPECT_EQ(cached({1, 2, 3, 4, 5, 6}), 5);
  EXPECT_EQ(cached({1, 2, 9}), 2);
  EXPECT_EQ(cached({2}), 0);
  Sequence b = start({1, 2, 3, 9});
  EXPECT_EQ(b.slots, Tokens(its.begin(), its.begin() + 3));
  EXPECT_EQ(cache.evictable(), 2);
  finish(b);
  check({});
}

TEST_F(PrefixCacheTest, AChunkIsSharedWhileItsSequenceGoesOn) {
  Sequence a = start({1, 2, 3, 4, 5, 6});
  chunk(a, 3);
  Sequence b = start({1, 2, 3, 4, 5, 7});
  EXPECT_EQ(b.slots.size(), 3U);
  chunk(a, 3);
  cache.extend(std::span(b.tokens).first(5), {}, b.slots, b.ref);
  b.in_tree = static_cast<int32_t>(b.slots.size());
  EXPECT_EQ(b.slots.size(), 5U);
  EXPECT_EQ(cache.peek(b.tokens, {}).held, 5);
  compute(b);
  check({&a, &b});
  finish(a);
  check({&b});
  EXPECT_EQ(cache.evictable(), 1);  // b does not use a's last token
  finish(b);
  check({});
}

TEST_F(PrefixCacheTest, CopiesOfWhatTheTreeHasAreFreedAtTheEnd) {
  Sequence a = start({1, 2, 3, 4});
  Sequence b = start({1, 2, 3, 4});
  compute(a);
  compute(b);  // the same tokens, its own slots
  EXPECT_TRUE(b.own_copies);
  check({&a, &b});
  EXPECT_EQ(slots.free(), 56);
  finish(b);
  EXPECT_EQ(slots.free(), 60);
  finish(a);
  EXPECT_EQ(cached({1, 2, 3, 4, 5}), 4);
  check({});
}

TEST_F(PrefixCacheTest, EvictsTheLeastRecentlyUsedFirstAndFromTheEnd) {
  for (const int32_t first : {1, 2, 3}) {
    Sequence s = start({first, 7, 8, 9});
    compute(s);
    finish(s);
  }
  Sequence again = start({1, 7, 8, 9, 10});  // uses 1 once more
  finish(again);
  cache.evict(6, slots);
  EXPECT_EQ(cached({2, 7, 8, 9}), 0);
  EXPECT_EQ(cached({3, 7, 8, 9}), 2);
  EXPECT_EQ(cached({1, 7, 8, 9}), 4);
  cache.evict(1000, slots);  // more than there is: not an error
  EXPECT_EQ(slots.free(), 64);
  check({});
}

TEST_F(PrefixCacheTest, NeverEvictsWhatSomebodyHolds) {
  Sequence a = start({1, 2, 3, 4});
  compute(a);
  cache.evict(64, slots);
  EXPECT_EQ(slots.free(), 60);
  finish(a);
}

TEST_F(PrefixCacheTest, SaltsDoNotShare) {
  Sequence a = start({1, 2, 3}, 7);
  compute(a);
  finish(a);
  EXPECT_EQ(cached({1, 2, 3}, 7), 3);
  EXPECT_EQ(cached({1, 2, 3}, 8), 0);
  EXPECT_EQ(cached({1, 2, 3}, 0), 0);
}

TEST_F(PrefixCacheTest, ResetForgetsAtOnceAndFreesWhenHoldersLeave) {
  Sequence a = start({1, 2, 3, 4, 5, 6});
  chunk(a, 4);
  Sequence b = start({1, 2, 9});
  cache.reset(slots);
  EXPECT_EQ(cached({1, 2, 3, 4}), 0);
  check({&a, &b});
  chunk(a, 2);
  compute(b);
  check({&a, &b});
  Sequence c = start({1, 2, 3, 4});
  compute(c);
  finish(a);
  check({&b, &c});
  finish(b);
  check({&c});
  finish(c);
  EXPECT_EQ(slots.free(), 60);
  EXPECT_EQ(cached({1, 2, 3, 4}), 4);
  check({});
}

// Random sequences over few tokens against a plain model: a set of all prefixes ever computed.
// Without eviction everything that was computed is found; with it, the books balance.
TEST_F(PrefixCacheTest, RandomUseBalancesAndFindsWhatIsThere) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto pick = [&](int32_t low, int32_t high) {
      return std::uniform_int_distribution<int32_t>(low, high)(random);
    };
    const int32_t size = seed % 2 == 0 ? 4000 : 60;
    slots = SlotAllocator(size);
    std::map<uint64_t, std::set<Tokens>> model;
    const auto learn = [&](const Sequence& s, int32_t n_computed) {
      for (int32_t n = 1; n <= n_computed; ++n) {
        model[s.salt].insert(Tokens(s.tokens.begin(), s.tokens.begin() + n));
      }
    };
    std::vector<Sequence> live;
    for (int step = 0; step < 120; ++step) {
      const int32_t dice = pick(0, 9);
      if (dice < 4 && live.size() < 3) {
        Tokens tokens;
        for (int32_t n = pick(2, 12); n > 0; --n) tokens.push_back(pick(1, 2));
        const auto salt = static_cast<uint64_t>(pick(0, 1));
        size_t known = 0;
        while (known < tokens.size() &&
               model[salt].contains(
                   Tokens(tokens.begin(), tokens.begin() + static_cast<int>(known) + 1))) {
          ++known;
        }
        live.push_back(start(tokens, salt));
        if (size > 1000) {
          EXPECT_EQ(live.back().slots.size(), std::min(known, tokens.size() - 1));
        }
      } else if (dice < 8 && !live.empty()) {
        Sequence& s = live[static_cast<size_t>(pick(0, static_cast<int32_t>(live.size()) - 1))];
        const auto left = static_cast<int32_t>(s.tokens.size() - s.slots.size());
        if (left > 0) chunk(s, pick(1, left));
        learn(s, s.in_tree);
      } else if (!live.empty()) {
        const size_t i = static_cast<size_t>(pick(0, static_cast<int32_t>(live.size()) - 1));
        learn(live[i], static_cast<int32_t>(live[i].slots.size()));
        finish(live[i]);
        live.erase(live.begin() + static_cast<std::ptrdiff_t>(i));
      }
      std::vector<const Sequence*> all;
      for (const Sequence& s : live) all.push_back(&s);
      check(all);
      if (HasFailure()) return;
    }
    for (Sequence& s : live) finish(s);
    cache.reset(slots);
    EXPECT_EQ(slots.free(), slots.total());
  }
}

}  // namespace
}  // namespace troupe
