// Runs under mpirun, one process a rank: every process executes the same cases in the same order.
#include "nccl/communicators.h"
#include "tests/nccl/communicator_suite.h"

#include <mpi.h>

#include <functional>
#include <thread>

namespace troupe {
namespace {

/// The communicator is used on a thread other than the one that initialised MPI, as in a rank.
template <MpiTransport kTransport>
struct MpiHarness {
  void run(const std::function<void(Communicator&)>& body) {
    std::jthread([&body] { body(*make_mpi_communicator(kTransport)); }).join();
  }
};

using Harnesses =
    testing::Types<MpiHarness<MpiTransport::kAuto>, MpiHarness<MpiTransport::kMessages>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Mpi, CommunicatorSuite, Harnesses);

TEST(MpiCommunicator, RanksAreThoseOfTheWorld) {
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  for (const MpiTransport transport : {MpiTransport::kAuto, MpiTransport::kMessages}) {
    const auto c = make_mpi_communicator(transport);
    EXPECT_EQ(c->rank(), rank);
    EXPECT_EQ(c->size(), size);
  }
}

TEST(MpiCommunicator, AbortFailsLaterCalls) {
  for (const MpiTransport transport : {MpiTransport::kAuto, MpiTransport::kMessages}) {
    const auto c = make_mpi_communicator(transport);
    Stream stream(1);
    std::vector<float> data(4);
    c->abort();
    EXPECT_THROW(c->all_reduce_sum(data, stream), DeviceError);
  }
}

TEST(MpiCommunicator, AbortFreesABlockedRank) {
  for (const MpiTransport transport : {MpiTransport::kAuto, MpiTransport::kMessages}) {
    const auto c = make_mpi_communicator(transport);
    if (c->size() == 1 || c->rank() != 0) continue;  // the others never join the call
    Stream stream(1);
    std::vector<float> data(4);
    std::jthread stopper([&c] { c->abort(); });
    EXPECT_THROW(c->all_reduce_sum(data, stream), DeviceError);
  }
}

}  // namespace
}  // namespace troupe

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  testing::InitGoogleTest(&argc, argv);
  const int failed = RUN_ALL_TESTS();
  MPI_Finalize();
  return failed;
}
