// What a rank looks like to the supervisor, without a model: fake_rank MODE DIRECTORY.
#include "launch/job.h"

#include <mpi.h>
#include <unistd.h>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>

int main(int argc, char** argv) {
  if (argc != 3 || !troupe::die_with_parent()) return 1;
  const std::string mode = argv[1];
  const std::string directory = argv[2];
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (mode == "fail") {
    if (rank == 1) {
      std::fprintf(stderr, "rank 1: error: no memory for 8192 tokens\n");
      _exit(2);
    }
    MPI_Barrier(MPI_COMM_WORLD);
  }
  if (rank == 0) {
    std::stringstream input;
    input << std::cin.rdbuf();
    std::ofstream(directory + "/input." + input.str()) << input.str();
  }
  MPI_Barrier(MPI_COMM_WORLD);
  std::ofstream(directory + "/rank." + std::to_string(getpid())) << rank;
  if (mode == "leave") {
    MPI_Finalize();
    return 0;
  }
  for (;;) pause();
}
