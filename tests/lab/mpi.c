// SPDX-License-Identifier: BSD-3-Clause
/*
 * An expert-parallel job over MPI: ranks tell each other how many tokens go to each expert (alltoall of
 * int64), then move them (alltoallv), then back. Rank 0 writes the truth.
 * usage: lab-mpi STEPS LAYERS EXPERTS-PER-RANK TOKENS TOKEN-BYTES TRUTH.csv
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t next(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return *state >> 33;
}

int main(int argc, char **argv)
{
	int steps, layers, experts, tokens, bytes, ranks, rank;
	int64_t *mine, *theirs, *truth;
	int *sent, *got, *out, *in;
	char *from, *to;
	uint64_t state;
	FILE *f = NULL;

	MPI_Init(&argc, &argv);
	if (argc != 7)
		return 2;
	steps = atoi(argv[1]), layers = atoi(argv[2]), experts = atoi(argv[3]);
	tokens = atoi(argv[4]), bytes = atoi(argv[5]);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	mine = calloc((size_t)(ranks * experts), sizeof *mine);
	theirs = calloc((size_t)(ranks * experts), sizeof *theirs);
	truth = calloc((size_t)(ranks * ranks * experts), sizeof *truth);
	sent = calloc((size_t)ranks * 4, sizeof *sent);
	from = calloc((size_t)tokens, (size_t)bytes);
	to = calloc((size_t)tokens * (size_t)ranks, (size_t)bytes);
	if (!mine || !theirs || !truth || !sent || !from || !to || (rank == 0 && !(f = fopen(argv[6], "w"))))
		MPI_Abort(MPI_COMM_WORLD, 1);
	got = sent + ranks, out = got + ranks, in = out + ranks;
	if (f)
		fprintf(f, "step,layer,src,dst,expert,tokens\n");
	state = (uint64_t)rank + 1;
	for (int s = 0; s < steps; s++)
		for (int l = 0; l < layers; l++) {
			for (int e = 0; e < ranks * experts; e++)
				mine[e] = 0;
			for (int t = 0; t < tokens; t++) { /* the smaller of two: some experts are hot */
				uint64_t a = next(&state) % (uint64_t)(ranks * experts);
				uint64_t b = next(&state) % (uint64_t)(ranks * experts);

				mine[a < b ? a : b]++;
			}
			MPI_Alltoall(mine, experts, MPI_INT64_T, theirs, experts, MPI_INT64_T, MPI_COMM_WORLD);
			for (int r = 0; r < ranks; r++) {
				sent[r] = got[r] = 0;
				for (int e = 0; e < experts; e++) {
					sent[r] += (int)mine[r * experts + e] * bytes;
					got[r] += (int)theirs[r * experts + e] * bytes;
				}
				out[r] = r ? out[r - 1] + sent[r - 1] : 0;
				in[r] = r ? in[r - 1] + got[r - 1] : 0;
			}
			MPI_Alltoallv(from, sent, out, MPI_BYTE, to, got, in, MPI_BYTE, MPI_COMM_WORLD);
			MPI_Alltoallv(to, got, in, MPI_BYTE, from, sent, out, MPI_BYTE, MPI_COMM_WORLD);
			MPI_Gather(mine, ranks * experts, MPI_INT64_T, truth, ranks * experts, MPI_INT64_T, 0, MPI_COMM_WORLD);
			for (int r = 0; f && r < ranks; r++)
				for (int e = 0; e < ranks * experts; e++)
					fprintf(f, "%d,%d,%d,%d,%d,%lld\n", s, l, r, e / experts, e,
						(long long)truth[r * ranks * experts + e]);
		}
	if (f && fclose(f))
		MPI_Abort(MPI_COMM_WORLD, 1);
	free(mine), free(theirs), free(truth), free(sent), free(from), free(to);
	MPI_Finalize();
	return 0;
}
