#include "actors/router/admission.h"
#include "actors/router/output_estimator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace troupe {
namespace {

// Plays requests through the estimator as the router does.
void play(OutputEstimator& e, int32_t request_class, int32_t length, bool by_itself = true) {
  for (int32_t b = 0; b <= OutputEstimator::bin(length); ++b) e.reached(request_class, b);
  if (by_itself) e.ended(request_class, length);
}

TEST(OutputEstimator, BinsAreContiguousAndOrdered) {
  EXPECT_EQ(OutputEstimator::edge(0), 0);
  for (int32_t b = 0; b < OutputEstimator::kBins; ++b) {
    EXPECT_LT(OutputEstimator::edge(b), OutputEstimator::edge(b + 1));
    EXPECT_EQ(OutputEstimator::bin(OutputEstimator::edge(b)), b);
    EXPECT_EQ(OutputEstimator::bin(OutputEstimator::edge(b + 1) - 1), b);
  }
}

TEST(OutputEstimator, StartsWithAMildPriorBoundedByMaxTokens) {
  OutputEstimator e;
  EXPECT_NEAR(e.survival(0).at(OutputEstimator::kPriorMean), std::exp(-1.0), 0.03);
  EXPECT_LT(e.expected(0, 0, 100), 100);
  EXPECT_GT(e.expected(0, 0, 100), 90);
}

TEST(OutputEstimator, WhatNobodyReachedYetGoesOnLikeTheLongestKnown) {
  OutputEstimator e;
  // Of 40 requests, half have ended between 1,000 and 2,000; the others run on at 2,000.
  for (int32_t i = 0; i < 20; ++i) play(e, 0, 1000 + 50 * i);
  for (int32_t i = 0; i < 20; ++i) play(e, 0, 2000, false);
  // In 1,000 tokens half of them ended: mean 1,443 more.
  EXPECT_GT(e.expected(0, 2000, 100000), 900);
  EXPECT_LT(e.expected(0, 2000, 100000), 2200);
  // Nobody ends before 1,000, so nothing says that a fresh one will.
  EXPECT_GT(e.survival(0).at(900), 0.9F);
}

TEST(OutputEstimator, LearnsAndConditionsOnWhatWasProduced) {
  OutputEstimator e;
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    play(e, 0, std::uniform_int_distribution<int32_t>(1000, 2000)(random));
  }
  EXPECT_NEAR(e.expected(0, 0, 100000), 1500, 45);
  EXPECT_NEAR(e.expected(0, 1500, 100000), 250, 60);
}

TEST(OutputEstimator, RequestsThatStillRunDoNotBiasIt) {
  OutputEstimator e;
  // Half end at 100, the others run on past 5,000: without counting those the mean would be 100.
  for (int i = 0; i < 500; ++i) {
    play(e, 0, 100);
    play(e, 0, 5000, false);
  }
  EXPECT_NEAR(e.survival(0).at(120), 0.5F, 0.03F);
  EXPECT_NEAR(e.survival(0).at(4000), 0.5F, 0.03F);
}

TEST(OutputEstimator, ClassesDiffer) {
  OutputEstimator e;
  const int32_t chat = OutputEstimator::class_of(1, 100);
  const int32_t completions = OutputEstimator::class_of(0, 100);
  ASSERT_NE(chat, completions);
  for (int i = 0; i < 400; ++i) {
    play(e, chat, 1000);
    play(e, completions, 50);
  }
  EXPECT_GT(e.expected(chat, 0, 10000), 800);
  EXPECT_LT(e.expected(completions, 0, 10000), 120);
  // A class that was never seen leans on all together.
  const double pooled = e.expected(OutputEstimator::class_of(2, 100), 0, 10000);
  EXPECT_GT(pooled, 300);
  EXPECT_LT(pooled, 700);
}

TEST(OutputEstimator, OldObservationsFade) {
  OutputEstimator e;
  for (int i = 0; i < 3000; ++i) play(e, 0, 200);
  for (int i = 0; i < 5000; ++i) play(e, 0, 2000);
  EXPECT_GT(e.expected(0, 0, 100000), 1500);
}

class AdmissionTest : public testing::Test {
 protected:
  // All requests of class 0 produce about 1,000 tokens.
  AdmissionTest() {
    for (int i = 0; i < 1000; ++i) play(lengths, 0, 1000);
    for (int i = 0; i < 5000; ++i) admission.ended();  // the reserve at its least
  }
  OutputEstimator lengths;
  Admission admission{64};
};

TEST_F(AdmissionTest, AdmitsByThePredictedPeakNotByMaxTokens) {
  const Demand demand{0, 0, 100, 8000};
  int32_t n = 0;
  int64_t claimed = 0;
  while (n < 64 && admission.fits(demand, claimed, 30000, lengths)) {
    admission.set(n++, demand, lengths);
    claimed += 100;
  }
  // 27 requests of 1,100 tokens fit; with max_tokens 3 would. Horizons are 12 % apart.
  EXPECT_GE(n, 20);
  EXPECT_LE(n, 27 * 112 / 100);
}

TEST_F(AdmissionTest, FinishOrderMatters) {
  // 20 old ones are about to end and give back 1,000 each before the new ones have grown.
  for (int32_t row = 0; row < 20; ++row) {
    admission.set(row, {0, 900, 1000, 8000}, lengths);
  }
  EXPECT_TRUE(admission.fits({0, 0, 100, 8000}, 20000, 23000, lengths));
  EXPECT_LT(admission.peak(20000), 23000);
}

TEST_F(AdmissionTest, NeverAdmitsWhatDoesNotFitNow) {
  EXPECT_FALSE(admission.fits({0, 0, 100, 1}, 900, 1000, lengths));
  EXPECT_TRUE(admission.fits({0, 0, 99, 1}, 900, 1000, lengths));
}

TEST_F(AdmissionTest, MaxTokensBoundsTheForecast) {
  for (int32_t row = 0; row < 9; ++row) admission.set(row, {0, 0, 100, 1}, lengths);
  EXPECT_LE(admission.peak(900), 930);
}

TEST_F(AdmissionTest, SlotsThatNoRowAccountsForCount) {
  admission.set(0, {0, 0, 100, 10}, lengths);
  EXPECT_GE(admission.peak(600), 600);
  admission.clear(0);
  EXPECT_EQ(admission.peak(0), 0);
}

TEST_F(AdmissionTest, SettingAndClearingLeavesNothing) {
  std::mt19937 random(3);
  for (int i = 0; i < 20000; ++i) {
    const auto row = std::uniform_int_distribution<int32_t>(0, 63)(random);
    const auto produced = std::uniform_int_distribution<int32_t>(0, 3000)(random);
    if (i % 3 == 0) {
      admission.clear(row);
    } else {
      admission.set(row, {0, produced, produced + 50, 8000}, lengths);
    }
  }
  for (int32_t row = 0; row < 64; ++row) admission.clear(row);
  EXPECT_NEAR(admission.peak(0), 0, 1e-3);
}

TEST_F(AdmissionTest, TheMoreRowsTheSmallerTheReserve) {
  const double few = admission.reserve();
  for (int32_t row = 0; row < 64; ++row) admission.set(row, {0, 0, 10, 100}, lengths);
  const double many = admission.reserve();
  EXPECT_LT(many, few);
  EXPECT_GE(many, 1.5);
  for (int32_t row = 0; row < 64; ++row) admission.clear(row);
  EXPECT_EQ(admission.reserve(), few);
}

TEST_F(AdmissionTest, SaysWhatARowsLeavingWouldChange) {
  admission.set(0, {0, 0, 500, 8000}, lengths);    // is to grow by 1,000
  admission.set(1, {0, 950, 500, 8000}, lengths);  // is about to end
  EXPECT_LT(admission.peak_without(0, 1000), admission.peak_without(1, 1000));
  EXPECT_LT(admission.peak_without(1, 1000), admission.peak(1000));
}

TEST_F(AdmissionTest, PausesRaiseTheReserveAndEndsLowerIt) {
  const double before = admission.reserve();
  admission.paused();
  EXPECT_GT(admission.reserve(), before);
  for (int i = 0; i < 5000; ++i) admission.ended();
  EXPECT_NEAR(admission.reserve(), before, 1e-3);
}

}  // namespace
}  // namespace troupe
