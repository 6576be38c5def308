/* SPDX-License-Identifier: BSD-3-Clause */
/* What a move costs, and when it has paid. */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Bytes that each rank sends and receives in a move. */
struct traffic {
	double *sent[2], *got[2]; /**< [ranks]; inside a node, and between nodes */
};

/** The rank that an expert's weights come from: see moetap_plan_price(). */
static uint32_t sender(const struct moetap_shape *shape, const uint32_t *slot, uint32_t expert,
	uint32_t to, const struct traffic *t)
{
	uint32_t a_rank = shape->slots / shape->ranks, a_node = shape->ranks / shape->nodes;
	uint32_t best = shape->ranks;

	for (uint32_t s = 0; s < shape->slots; s++) {
		uint32_t r = s / a_rank;
		bool near = r / a_node == to / a_node, best_near = best / a_node == to / a_node;

		if (slot[s] != expert)
			continue;
		if (best == shape->ranks || (near && !best_near) ||
			(near == best_near && t->sent[!near][r] < t->sent[!near][best]))
			best = r;
	}
	return best;
}

static bool holds(const uint32_t *slot, uint32_t n, uint32_t expert)
{
	for (uint32_t s = 0; s < n; s++)
		if (slot[s] == expert)
			return true;
	return false;
}

/** Adds what a layer sends. @return slots filled anew */
static int64_t add_layer(const struct moetap_shape *shape, const uint32_t *to, const uint32_t *from,
	double bytes, struct traffic *t)
{
	uint32_t a_rank = shape->slots / shape->ranks, a_node = shape->ranks / shape->nodes;
	int64_t moved = 0;

	for (uint32_t s = 0; s < shape->slots; s++) {
		uint32_t rank = s / a_rank, other;
		bool outside;

		if (holds(from + (size_t)rank * a_rank, a_rank, to[s]))
			continue;
		other = sender(shape, from, to[s], rank, t);
		outside = other / a_node != rank / a_node;
		t->sent[outside][other] += bytes;
		t->got[outside][rank] += bytes;
		moved++;
	}
	return moved;
}

/** Seconds of the rank that is busy longest; it sends and receives at the same time. */
static double longest(const struct traffic *t, uint32_t ranks, const struct moetap_prices *p,
	struct moetap_move *m)
{
	double most = 0;

	for (uint32_t r = 0; r < ranks; r++) {
		most = fmax(most, t->sent[0][r] / p->inside + t->sent[1][r] / p->outside);
		most = fmax(most, t->got[0][r] / p->inside + t->got[1][r] / p->outside);
		m->inside += t->got[0][r];
		m->outside += t->got[1][r];
	}
	return most;
}

static bool is_price(double x)
{
	return x > 0 && isfinite(x);
}

/** Tokens of the busiest ranks of all layers. */
static double of_busiest(const struct moetap_plan *plan, const double *loads)
{
	uint32_t experts = moetap_plan_experts(plan);
	double mean, sum = 0;

	for (uint32_t l = 0; l < moetap_plan_layers(plan); l++)
		sum += mtl_plan_busiest(plan, l, loads + (size_t)l * experts, &mean);
	return sum;
}

int moetap_plan_price(const struct moetap_plan *plan, const struct moetap_plan *current,
	const double *loads, const struct moetap_prices *prices, struct moetap_move *move)
{
	struct moetap_shape shape;
	struct traffic t;
	double *room;

	if (moetap_plan_moves(plan, current) < 0 || !is_price(prices->expert_bytes) ||
		!is_price(prices->inside) || !is_price(prices->outside) ||
		!is_price(prices->token_seconds) || !(prices->stall >= 0))
		return -EINVAL;
	moetap_plan_shape(plan, &shape);
	room = calloc(4 * (size_t)shape.ranks, sizeof(*room));
	if (room == NULL)
		return -ENOMEM;
	for (int i = 0; i < 2; i++) {
		t.sent[i] = room + (size_t)i * shape.ranks;
		t.got[i] = room + (size_t)(2 + i) * shape.ranks;
	}
	*move = (struct moetap_move){0};
	for (uint32_t l = 0; l < moetap_plan_layers(plan); l++)
		move->slots += add_layer(&shape, moetap_plan_slots(plan) + (size_t)l * shape.slots,
			moetap_plan_slots(current) + (size_t)l * shape.slots, prices->expert_bytes,
			&t);
	move->seconds = longest(&t, shape.ranks, prices, move);
	if (move->slots > 0)
		move->seconds += prices->stall;
	move->gain = (of_busiest(current, loads) - of_busiest(plan, loads)) * prices->token_seconds;
	move->steps = move->seconds == 0 ? 0
		      : move->gain > 0	 ? move->seconds / move->gain
					 : INFINITY;
	free(room);
	return 0;
}
