#include "tests/http/server_fixture.h"
#include "tests/support/picture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <string>

namespace troupe {
namespace {

using nlohmann::json;
using test::RawResponse;
using ::testing::HasSubstr;
using ::testing::Not;

class Dashboard : public test::ServerFixture {};

TEST_F(Dashboard, FilesComeWithAStrictPolicyAndLoadNothingFromElsewhere) {
  start();
  for (const char* path : {"/dashboard", "/dashboard/dashboard.css", "/dashboard/dashboard.js"}) {
    SCOPED_TRACE(path);
    const RawResponse file = get(path);
    EXPECT_EQ(file.status, 200);
    EXPECT_THAT(file.head, HasSubstr("Content-Security-Policy: default-src 'none'; "));
    EXPECT_THAT(file.head, HasSubstr("frame-ancestors 'none'"));
    EXPECT_THAT(file.head, HasSubstr("X-Content-Type-Options: nosniff"));
    EXPECT_THAT(file.head, Not(HasSubstr("unsafe")));
    EXPECT_THAT(file.body, Not(HasSubstr("://")));
    EXPECT_THAT(file.body, Not(HasSubstr("innerHTML")));
  }
  EXPECT_THAT(get("/dashboard").head, HasSubstr("text/html"));
  EXPECT_EQ(get("/dashboard/other").status, 404);
}

TEST_F(Dashboard, StateTellsWhatTheEngineSays) {
  engine_.set_snapshot(test::picture());
  start();
  const RawResponse reply = get("/dashboard/state");
  EXPECT_EQ(reply.status, 200);
  EXPECT_THAT(reply.head, HasSubstr("Cache-Control: no-store"));
  const json state = json::parse(reply.body);
  EXPECT_EQ(state["model"], "fake");
  EXPECT_EQ(state["stats"]["ready"], 1);
  const json& replica = state["replicas"][0];
  EXPECT_EQ(replica["slots"], 1000);
  // Runs of cells: how many, whose, slots in use of each.
  EXPECT_EQ(replica["cells"], json::parse("[100,3,1,200,4,1,50,2,1,150,1,1,500,0,0]"));
  EXPECT_EQ(replica["steps"][0], json::parse("[1,130,1,9000,40]"));
  EXPECT_EQ(replica["ranks"][1], json::parse("[7,1500]"));
  EXPECT_EQ(state["running"][0]["id"], 11);
  EXPECT_EQ(state["running"][1]["prefill"], 1);
  EXPECT_EQ(state["waiting"][0]["why"], "slots");
  EXPECT_EQ(state["waiting"][0]["need"], 3100);
  EXPECT_EQ(state["waiting"][0]["free"], 2950);
  EXPECT_EQ(state["waiting_total"], 2);
}

TEST_F(Dashboard, EveryReasonHasAName) {
  EngineSnapshot snapshot;
  for (int why = 0; why <= static_cast<int>(EngineSnapshot::Wait::kOrder); ++why) {
    snapshot.waiting.emplace_back().why = static_cast<EngineSnapshot::Wait>(why);
  }
  engine_.set_snapshot(snapshot);
  start();
  const json state = json::parse(get("/dashboard/state").body);
  std::vector<std::string> names;
  for (const json& w : state["waiting"]) names.push_back(w["why"]);
  EXPECT_THAT(names,
              ::testing::ElementsAre("no_replica", "pool", "rows", "targets", "slots", "order"));
}

TEST_F(Dashboard, FilesAreOpenAndTheStateWantsTheKey) {
  options_.api_keys = {"secret"};
  start();
  EXPECT_EQ(get("/dashboard").status, 200);
  EXPECT_EQ(get("/dashboard/dashboard.js").status, 200);
  EXPECT_EQ(get("/dashboard/state").status, 401);
  EXPECT_EQ(get("/dashboard/state", "Authorization: Bearer secret\r\n").status, 200);
  EXPECT_EQ(get("/dashboard/dashboard.js/../state").status, 401);
  EXPECT_EQ(get("/dashboard/other").status, 401);
}

}  // namespace
}  // namespace troupe
