// Every construct against what jinja2, set up as transformers does it, made of it.
#include "tests/actors/text/template_fixture.h"

#include <gtest/gtest.h>

namespace troupe {
namespace {

ChatTemplate::Inputs golden_inputs() {
  return inputs_for(messages_from(template_goldens("templates.json")["conversations"]["system"]));
}

TEST(Jinja, RendersWhatJinja2Renders) {
  const auto inputs = golden_inputs();
  int compared = 0;
  for (const auto& row : template_goldens("expressions.json")) {
    if (!row.contains("text")) continue;
    const std::string source = row["template"];
    const auto out = render(source, inputs);
    ++compared;
    if (!out) {
      ADD_FAILURE() << source << "\n  fails: " << out.error().message;
    } else {
      EXPECT_EQ(joined(*out), row["text"].get<std::string>()) << source;
    }
  }
  EXPECT_GE(compared, 150);
}

TEST(Jinja, RefusesWhatJinja2Refuses) {
  const auto inputs = golden_inputs();
  for (const auto& row : template_goldens("expressions.json")) {
    if (row.contains("text")) continue;
    const std::string source = row["template"];
    const auto out = render(source, inputs);
    EXPECT_FALSE(out.ok()) << source << "\n  gives: " << joined(*out);
  }
}

TEST(Jinja, NamesTheLineOfAnError) {
  const auto at_load = ChatTemplate::parse("a\n{% if x %}\n{{ 1 +\n }}{% endif %}");
  ASSERT_FALSE(at_load.ok());
  EXPECT_EQ(at_load.error().code, ErrorCode::kBadModel);
  EXPECT_EQ(at_load.error().message, "the chat template, line 4: unexpected '}}'");

  const auto running = render("a\n{% if true %}\n\n{{ nope.x }}{% endif %}", inputs_for({}));
  ASSERT_FALSE(running.ok());
  EXPECT_EQ(running.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(running.error().message, "the chat template, line 4: 'nope' is undefined");
}

TEST(Jinja, RefusesWhatItDoesNotKnowAtLoad) {
  for (const char* source :
       {"{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}",
        "{% call f() %}{% endcall %}", "{% if false %}{{ 1 | xmlattr }}{% endif %}",
        "{% if false %}{{ 1 is blue }}{% endif %}", "{% for x in [] recursive %}{% endfor %}",
        "{% raw %}", "{% do 1 %}", "\xff\xfe",
        "{% for x in [] %}{% macro f() %}{% endmacro %}{% endfor %}"}) {
    const auto parsed = ChatTemplate::parse(source);
    ASSERT_FALSE(parsed.ok()) << source;
    EXPECT_EQ(parsed.error().code, ErrorCode::kBadModel) << source;
  }
}

TEST(Jinja, RefusesToBuildCycles) {
  for (const char* source : {"{% set a = namespace() %}{% set a.x = a %}", "{{ [namespace()] }}",
                             "{% set a = namespace() %}{% set a.x = [1, {'b': a}] %}",
                             "{{ namespace(a=namespace()) }}"}) {
    EXPECT_FALSE(render(source, inputs_for({})).ok()) << source;
  }
}

TEST(Jinja, TellsTheTime) {
  const auto year = render("{{ strftime_now('%Y') }}", inputs_for({}));
  ASSERT_TRUE(year.ok());
  EXPECT_GE(std::stoi(joined(*year)), 2024);
  EXPECT_TRUE(year->front().from_template);
}

std::string repeated(const std::string& text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

TEST(JinjaHostile, DeepNestingIsRefused) {
  EXPECT_FALSE(ChatTemplate::parse("{{ " + repeated("(", 100'000)).ok());
  constexpr int kDeep = 10'000;
  for (const auto& source : {
           "{{ " + repeated("(", kDeep) + "1" + repeated(")", kDeep) + " }}",
           "{{ " + repeated("[", kDeep) + " }}",
           "{{ " + repeated("{1:", kDeep) + " }}",
           "{{ " + repeated("not ", kDeep) + "1 }}",
           "{{ " + repeated("- ", kDeep) + "1 }}",
           "{{ 1" + repeated(" + 1", kDeep) + " }}",
           "{{ 1" + repeated(" ** 1", kDeep) + " }}",
           "{{ a" + repeated(".b", kDeep) + " }}",
           "{{ a" + repeated("[0]", kDeep) + " }}",
           "{{ a" + repeated("()", kDeep) + " }}",
           "{{ a" + repeated("|trim", kDeep) + " }}",
           "{{ 1" + repeated(" or 1", kDeep) + " }}",
           "{{ 1" + repeated(" if 1 else 1", kDeep) + " }}",
           "{{ a" + repeated("(b=a", kDeep) + " }}",
           repeated("{% if 1 %}", kDeep),
           repeated("{% for x in y %}", kDeep),
           repeated("{% set x %}", kDeep),
           repeated("{% filter trim %}", kDeep),
       }) {
    const auto parsed = ChatTemplate::parse(source);
    EXPECT_FALSE(parsed.ok()) << source.substr(0, 20);
  }
}

TEST(JinjaHostile, LongChainsWithoutNestingWork) {
  const auto concat = render("{{ 'a'" + repeated(" ~ 'a'", 10'000) + " }}", inputs_for({}));
  ASSERT_TRUE(concat.ok());
  EXPECT_EQ(joined(*concat).size(), 10'001U);
  const auto choice = render(
      "{% if 0 %}" + repeated("{% elif 0 %}", 10'000) + "{% else %}x{% endif %}", inputs_for({}));
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(joined(*choice), "x");
}

TEST(JinjaHostile, TooMuchWorkIsRefused) {
  for (
      const char* source : {
          "{% for i in range(99999999999) %}{% endfor %}",
          "{{ range(9223372036854775807) }}",
          "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
          "{{ 'a' * 99999999999 }}",
          "{{ [1] * 99999999999 }}",
          "{{ 'ab' * 9223372036854775807 }}",
          "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x "
          "%}{% endfor %}{{ ns.x }}",
          "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x "
          "%}{% endfor %}",
          "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = "
          "ns.x|replace('a', 'aa') %}{% endfor %}",
          "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% "
          "endfor %}",
          "{% set ns = namespace(x=[1]) %}{% for i in range(50) %}{% set ns.x = [ns.x, ns.x] %}{% "
          "endfor %}{{ ns.x }}",
          "{% set ns = namespace(x=[1]) %}{% for i in range(50) %}{% set ns.x = [ns.x, ns.x] %}{% "
          "endfor %}{{ ns.x | tojson }}",
          "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(50) %}{% set ns.x = [ns.x, "
          "ns.x] "
          "%}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
          "{% set ns = namespace(x=[1]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% "
          "endfor "
          "%}",
      }) {
    EXPECT_FALSE(render(source, inputs_for({})).ok()) << source;
  }
}

TEST(JinjaHostile, TooMuchRecursionAndTooLargeNumbersAreRefused) {
  for (const char* source : {
           "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
           "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}",
           "{% for i in range(999999) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 99 }}{% "
           "endfor "
           "%}",
           "{{ ('a' * 9999999) | join('b' * 9999999) }}",
           "{{ ('a\\n' * 999999) | indent(1000) }}",
           "{{ 2 ** 64 }}",
           "{{ 9223372036854775807 + 1 }}",
           "{{ -9223372036854775807 - 2 }}",
           "{{ (-9223372036854775807 - 1) // -1 }}",
           "{{ 9999999999 * 9999999999 }}",
           "{{ 99999999999999999999 }}",
       }) {
    EXPECT_FALSE(render(source, inputs_for({})).ok()) << source;
  }
}

TEST(JinjaHostile, CutsAndFlipsOfATemplateNeverCrash) {
  // Every prefix, and every byte replaced by a few characters that mean something.
  const auto goldens = template_goldens("templates.json");
  for (const auto& row : goldens["templates"]) {
    const std::string source = row["template"];
    const auto inputs = inputs_for({{"user", "hi", ""}, {"assistant", "yo", ""}});
    const size_t step = source.size() / 20 + 1;
    for (size_t i = 0; i < source.size(); i += step) {
      static_cast<void>(render(source.substr(0, i), inputs));
      for (const char c : {'{', '}', '%', '\'', '(', '|', '0', '\0', '\x80'}) {
        std::string changed = source;
        changed[i] = c;
        const auto out = render(changed, inputs);
        if (!out) {
          EXPECT_FALSE(out.error().message.empty());
        }
      }
    }
  }
}

}  // namespace
}  // namespace troupe
