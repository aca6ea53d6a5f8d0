#pragma once

#include "actors/text/incremental_decoder.h"
#include "actors/text/tokenizer.h"
#include "actors/text/tokenizer_json.h"
#include "actors/text/vocabulary.h"

#include <gtest/gtest.h>
#include <cstdint>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace troupe::testing {

inline std::string read_data(const std::string& name) {
  std::ifstream file(std::string(TROUPE_SOURCE_DIR) + "/tests/data/tokenizer/" + name,
                     std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(file.good()) << name;
  return text.str();
}

inline std::shared_ptr<const Tokenizer> load_json(const std::string& name) {
  auto v = vocabulary_from_json(read_data(name + ".json"), "", 1 << 20);
  if (!v) {
    ADD_FAILURE() << v.error().message;
    return nullptr;
  }
  auto tokenizer = make_tokenizer(std::move(*v));
  if (!tokenizer) {
    ADD_FAILURE() << tokenizer.error().message;
    return nullptr;
  }
  return *tokenizer;
}

inline std::string decode(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  IncrementalDecoder decoder(tokenizer, true);
  std::string text;
  for (const int32_t id : ids) text += decoder.push(id);
  return text + decoder.flush();
}

/// Compares every line of NAME.golden, made by tests/support/reference/make_tokenizer_goldens.py.
inline void check_golden(const Tokenizer& tokenizer, const std::string& name) {
  std::istringstream lines(read_data(name + ".golden"));
  int cases = 0;
  for (std::string line; std::getline(lines, line); ++cases) {
    const auto row = nlohmann::json::parse(line);
    const auto text = row["text"].get<std::string>();
    const auto ids = row["ids"].get<std::vector<int32_t>>();
    const Tokenizer::EncodeOptions options{true, row["special"].get<bool>()};
    EXPECT_EQ(tokenizer.encode(text, options), ids) << row.dump();
    EXPECT_EQ(decode(tokenizer, ids), row["decoded"].get<std::string>()) << row.dump();
  }
  EXPECT_GT(cases, 150);
}

/// Unicode text without surrogates, from all planes but mostly from the beginning.
inline std::string random_utf8(std::mt19937& rng, int characters) {
  std::string out;
  for (int i = 0; i < characters; ++i) {
    const uint32_t limits[] = {0x80, 0x80, 0x800, 0x3100, 0x10000, 0x110000};
    uint32_t c = static_cast<uint32_t>(rng()) % limits[rng() % 6];
    if (c >= 0xd800 && c < 0xe000) c = 0x20;
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else if (c < 0x800) {
      out += static_cast<char>(0xc0U | (c >> 6U));
      out += static_cast<char>(0x80U | (c & 0x3fU));
    } else if (c < 0x10000) {
      out += static_cast<char>(0xe0U | (c >> 12U));
      out += static_cast<char>(0x80U | ((c >> 6U) & 0x3fU));
      out += static_cast<char>(0x80U | (c & 0x3fU));
    } else {
      out += static_cast<char>(0xf0U | (c >> 18U));
      out += static_cast<char>(0x80U | ((c >> 12U) & 0x3fU));
      out += static_cast<char>(0x80U | ((c >> 6U) & 0x3fU));
      out += static_cast<char>(0x80U | (c & 0x3fU));
    }
  }
  return out;
}

}  // namespace troupe::testing
