/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which expert a slot held at a step, and loads of experts from loads of slots. The wire names
 * slots; what is in them changes when a plan is applied, layer by layer if the job likes.
 */
#include "internal.h"
#include "moetap_hint.h"

#include <math.h>
#include <stdlib.h>

/** Steps that are compared at once, so that what a step has of its own averages out. */
#define BLOCK 8u
/** Steps from before a plan that say how much loads of slots differ anyway: at least, at most. */
#define REFERENCE_MIN (2 * BLOCK)
#define REFERENCE_MAX (8 * BLOCK)
/** Loads contradict a placement when they are off by twice what blocks were off by before, and by
 * a hundredth of the tokens at least. */
#define TIMES 2.0
#define AT_LEAST 0.01

/** What holds from a step on. */
struct entry {
	int64_t step;
	enum moetap_known known;
	uint32_t *slots; /**< [slots]; NULL: unknown */
};

struct history {
	struct entry *entry; /**< by rising step; the first is from INT64_MIN on */
	uint32_t count;
	uint64_t acks; /**< on the page, that were read */
};

struct moetap_placements {
	struct moetap_shape shape;
	uint32_t layers, experts;
	struct history *layer;	/**< [layers] */
	uint64_t page_id;	/**< that was read last */
	bool planned;		/**< a plan was published, */
	int64_t plan_step;	/**< after this step */
	uint32_t *candidate[2]; /**< [layers][slots], placements on the page; or NULL */
	char reason[128];	/**< why the placement is unknown */
};

/* ---- what holds when ---- */

/** Whether an entry says what the traffic showed before the job said the same: it knows better since
 * when. */
static bool is_guess(const struct entry *e, const uint32_t *slots, size_t bytes)
{
	return e->known == MOETAP_KNOWN_NOT || (e->known == MOETAP_KNOWN_NOTICED &&
						       memcmp(e->slots, slots, bytes) == 0);
}

/** Forgets what holds from `step` on and appends what does. */
static int append(const struct moetap_placements *p, struct history *h, int64_t step,
	const uint32_t *slots, enum moetap_known known)
{
	struct entry *grown = realloc(h->entry, (h->count + 1) * sizeof(*grown));
	size_t bytes = p->shape.slots * sizeof(*slots);
	uint32_t *copy = NULL;

	if (grown == NULL)
		return -ENOMEM;
	h->entry = grown;
	if (slots != NULL) {
		copy = malloc(bytes);
		if (copy == NULL)
			return -ENOMEM;
		memcpy(copy, slots, bytes);
	}
	while (h->count > 0 && grown[h->count - 1].step >= step)
		free(grown[--h->count].slots);
	if (known == MOETAP_KNOWN_ACKED && h->count > 1 && is_guess(&grown[h->count - 1], slots, bytes))
		free(grown[--h->count].slots);
	grown[h->count++] = (struct entry){step, known, copy};
	return 0;
}

static const struct entry *entry_at(
	const struct moetap_placements *p, uint32_t layer, int64_t step)
{
	const struct history *h = &p->layer[layer];
	uint32_t i = h->count - 1;

	while (i > 0 && h->entry[i].step > step)
		i--;
	return &h->entry[i];
}

/** The last placement of a layer that is known. */
static const uint32_t *last_known(const struct history *h)
{
	for (uint32_t i = h->count; i > 0; i--)
		if (h->entry[i - 1].slots != NULL)
			return h->entry[i - 1].slots;
	return NULL;
}

static int check_slots(const struct moetap_placements *p, uint32_t layer, const uint32_t *slots,
	struct moetap_error *error)
{
	bool *held = calloc(p->experts, sizeof(*held));
	uint32_t missing = 0, wrong = 0;

	if (held == NULL)
		return mtl_fail_memory(error);
	while (wrong < p->shape.slots && slots[wrong] < p->experts)
		held[slots[wrong++]] = true;
	while (missing < p->experts && held[missing])
		missing++;
	free(held);
	if (wrong < p->shape.slots)
		return mtl_fail(error, -EINVAL, "layer %u: slot %u holds expert %u of %u", layer,
			wrong, slots[wrong], p->experts);
	if (missing < p->experts)
		return mtl_fail(
			error, -EINVAL, "layer %u: no slot holds expert %u", layer, missing);
	return 0;
}

int moetap_placements_add(struct moetap_placements *p, uint32_t layer, int64_t step,
	const uint32_t *slots, enum moetap_known known, struct moetap_error *error)
{
	uint32_t first = layer == MOETAP_ALL_LAYERS ? 0 : layer;
	uint32_t end = layer == MOETAP_ALL_LAYERS ? p->layers : layer + 1;
	int ret = 0;

	if (first >= p->layers)
		return mtl_fail(error, -EINVAL, "layer %u of %u layers", layer, p->layers);
	for (uint32_t l = first; l < end && ret == 0; l++)
		ret = check_slots(p, l, slots + (size_t)(l - first) * p->shape.slots, error);
	for (uint32_t l = first; l < end && ret == 0; l++)
		if (append(p, &p->layer[l], step, slots + (size_t)(l - first) * p->shape.slots,
			    known) < 0)
			ret = mtl_fail_memory(error);
	return ret;
}

int moetap_placements_new(const struct moetap_shape *shape, uint32_t layers, uint32_t experts,
	struct moetap_placements **placements, struct moetap_error *error)
{
	struct moetap_placements *p;
	struct moetap_plan *trivial;
	int ret = moetap_plan_trivial(shape, layers, experts, &trivial, error);

	if (ret < 0)
		return ret;
	p = calloc(1, sizeof(*p));
	if (p != NULL)
		p->layer = calloc(layers, sizeof(*p->layer));
	if (p == NULL || p->layer == NULL) {
		free(p);
		moetap_plan_free(trivial);
		return mtl_fail_memory(error);
	}
	p->shape = *shape;
	p->layers = layers;
	p->experts = experts;
	ret = moetap_placements_add(p, MOETAP_ALL_LAYERS, INT64_MIN, moetap_plan_slots(trivial),
		MOETAP_KNOWN_START, error);
	moetap_plan_free(trivial);
	if (ret < 0) {
		moetap_placements_free(p);
		return ret;
	}
	*placements = p;
	return 0;
}

void moetap_placements_free(struct moetap_placements *p)
{
	if (p == NULL)
		return;
	for (uint32_t l = 0; l < p->layers; l++) {
		for (uint32_t i = 0; i < p->layer[l].count; i++)
			free(p->layer[l].entry[i].slots);
		free(p->layer[l].entry);
	}
	for (int i = 0; i < 2; i++)
		free(p->candidate[i]);
	free(p->layer);
	free(p);
}

const uint32_t *moetap_placements_at(
	const struct moetap_placements *p, uint32_t layer, int64_t step)
{
	return layer < p->layers ? entry_at(p, layer, step)->slots : NULL;
}

int moetap_placements_plan(
	const struct moetap_placements *p, struct moetap_plan **plan, struct moetap_error *error)
{
	size_t bytes = p->shape.slots * sizeof(uint32_t);
	uint32_t *slots = malloc(p->layers * bytes);
	int ret;

	if (slots == NULL)
		return mtl_fail_memory(error);
	for (uint32_t l = 0; l < p->layers; l++)
		memcpy(slots + (size_t)l * p->shape.slots, last_known(&p->layer[l]), bytes);
	ret = moetap_plan_from_slots(&p->shape, p->layers, p->experts, slots, plan, error);
	free(slots);
	return ret;
}

enum moetap_known moetap_placements_known(const struct moetap_placements *p, char reason[128])
{
	enum moetap_known known = MOETAP_KNOWN_START;

	for (uint32_t l = 0; l < p->layers; l++) {
		const struct history *h = &p->layer[l];

		if (h->entry[h->count - 1].known > known)
			known = h->entry[h->count - 1].known;
	}
	if (reason != NULL)
		snprintf(reason, 128, "%s", known == MOETAP_KNOWN_NOT ? p->reason : "");
	return known;
}

/* ---- what the page says ---- */

/** Adds the acknowledgements of a layer that are still there, and were not read before: what was
 * noticed since then stays. */
static int read_acks(struct moetap_placements *p, const struct moetap_hint_reader *reader,
	uint32_t layer, struct moetap_hint_ack *ack, struct moetap_error *error)
{
	uint64_t count = moetap_hint_acked(reader, layer);
	uint64_t oldest = count > MOETAP_HINT_ACKS ? count - MOETAP_HINT_ACKS + 1 : 1;
	struct history *h = &p->layer[layer];
	uint64_t first = oldest > h->acks ? oldest : h->acks + 1;
	bool alone = h->count == 1 && h->entry[0].known == MOETAP_KNOWN_START;
	int ret = 0;

	for (uint64_t n = first; n <= count && ret == 0; n++) {
		for (int attempt = 0; attempt < 1000; attempt++) {
			ret = moetap_hint_ack_read(reader, layer, n, ack);
			if (ret != -EAGAIN)
				break;
		}
		if (ret == -ENODATA) /* the job went on meanwhile: newer ones follow */
			ret = 0;
		else if (ret < 0)
			ret = mtl_fail(error, -EBADMSG,
				"acknowledgement %llu of layer %u is damaged",
				(unsigned long long)n, layer);
		else
			ret = moetap_placements_add(p, layer, ack->step,
				moetap_hint_ack_placement(ack), MOETAP_KNOWN_ACKED, error);
	}
	h->acks = ret == 0 ? count : h->acks;
	/* What held before the oldest one, nobody can tell any more. */
	if (alone && first > 1 && h->count > 1) {
		free(h->entry[0].slots);
		h->entry[0].slots = NULL;
		h->entry[0].known = MOETAP_KNOWN_NOT;
		snprintf(p->reason, sizeof(p->reason), "more acknowledgements than the page keeps");
	}
	return ret;
}

/** Keeps the placements of both hints on the page: one of them may be what the traffic shows. */
static int read_hints(struct moetap_placements *p, const struct moetap_hint_reader *reader,
	struct moetap_hint *hint, struct moetap_error *error)
{
	uint64_t newest = __atomic_load_n(&moetap_hint_head(reader)->generation, __ATOMIC_ACQUIRE);
	size_t bytes = (size_t)p->layers * p->shape.slots * sizeof(uint32_t);

	for (uint64_t i = 0; i < 2 && i < newest; i++) {
		if (!moetap_hint_copy(reader, newest - i, hint))
			continue;
		if (i == 0) {
			p->planned = hint->plan_generation > 0;
			p->plan_step = hint->plan_step;
		}
		if (moetap_hint_placement(hint, 0) == NULL)
			continue;
		if (p->candidate[i] == NULL)
			p->candidate[i] = malloc(bytes);
		if (p->candidate[i] == NULL)
			return mtl_fail_memory(error);
		memcpy(p->candidate[i], moetap_hint_placement(hint, 0), bytes);
	}
	return 0;
}

int moetap_placements_read(
	struct moetap_placements *p, const char *name, struct moetap_error *error)
{
	const struct moetap_hint_page *page;
	struct moetap_hint_reader *reader = malloc(sizeof(*reader));
	void *buffer = NULL;
	int ret = reader == NULL ? -ENOMEM : moetap_hint_open(reader, name);

	if (ret < 0) {
		free(reader);
		if (ret == -ENOENT || ret == -EPROTO) /* the publisher says what is wrong with it */
			return 0;
		return mtl_fail(error, ret, "hint page '%.64s': %s", name, strerror(-ret));
	}
	page = moetap_hint_head(reader);
	for (uint32_t l = 0; l < p->layers && page->page_id != p->page_id; l++)
		p->layer[l].acks = 0;
	p->page_id = page->page_id;
	if (page->layers == p->layers && page->slots == p->shape.slots &&
		page->experts == p->experts) {
		size_t bytes = moetap_hint_bytes(reader) + moetap_hint_ack_bytes(reader);

		buffer = malloc(bytes);
		ret = buffer != NULL ? read_hints(p, reader, buffer, error)
				     : mtl_fail_memory(error);
		for (uint32_t l = 0; l < p->layers && ret == 0; l++)
			ret = read_acks(p, reader, l, buffer, error);
	}
	free(buffer);
	moetap_hint_close(reader);
	free(reader);
	return ret;
}

/* ---- what the traffic says ---- */

/** Slots of one layer, before a plan and after it. */
struct comparison {
	const struct moetap_series *series;
	uint32_t layer, slots, first, planned; /**< kept steps: reference is first ... planned - 1 */
	double *mean;			       /**< [slots], mean shares of the reference */
	double *want;			       /**< [slots], shares under a candidate */
	double *block;			       /**< [slots] */
	double limit;
};

/** Half of the sum of differences of shares: the part of tokens that is elsewhere. */
static double distance(const double *a, const double *b, uint32_t n)
{
	double sum = 0;

	for (uint32_t s = 0; s < n; s++)
		sum += fabs(a[s] - b[s]);
	return sum / 2;
}

/** Mean shares of the kept steps first ... end - 1. */
static void block_of(const struct comparison *c, uint32_t first, uint32_t end)
{
	moetap_series_mean_shares(c->series, c->layer, mtl_series_step(c->series, first),
		mtl_series_step(c->series, end - 1), c->block);
}

static bool fits(const struct comparison *c)
{
	uint32_t end = moetap_series_steps(c->series);

	block_of(c, end - BLOCK, end);
	return distance(c->block, c->want, c->slots) <= c->limit;
}

/** Shares of slots if the experts of placement `now` were placed as in `then`, alike in replicas. */
static void shares_under(const struct moetap_placements *p, const struct comparison *c,
	const uint32_t *now, const uint32_t *then, double *expert)
{
	memset(expert, 0, 2 * p->experts * sizeof(*expert));
	for (uint32_t s = 0; s < c->slots; s++) {
		expert[now[s]] += c->mean[s];
		expert[p->experts + then[s]]++;
	}
	for (uint32_t s = 0; s < c->slots; s++)
		c->want[s] = expert[then[s]] / expert[p->experts + then[s]];
}

/** The first step from which on every one is nearer to `want` than to what was before. */
static int64_t changed_at(const struct comparison *c)
{
	uint32_t i = moetap_series_steps(c->series);

	while (i > c->planned) {
		block_of(c, i - 1, i);
		if (distance(c->block, c->want, c->slots) >= distance(c->block, c->mean, c->slots))
			break;
		i--;
	}
	return mtl_series_step(c->series, i);
}

/** Compares a layer and notes what it shows. `expert` is room for [2][experts]. */
static int compare(struct moetap_placements *p, struct comparison *c, double *expert)
{
	struct history *h = &p->layer[c->layer];
	const uint32_t *now = last_known(h);

	block_of(c, c->first, c->planned);
	memcpy(c->mean, c->block, c->slots * sizeof(*c->mean));
	c->limit = 0;
	for (uint32_t i = c->first; i + BLOCK <= c->planned; i += BLOCK) {
		block_of(c, i, i + BLOCK);
		c->limit = fmax(c->limit, distance(c->block, c->mean, c->slots));
	}
	c->limit = fmax(TIMES * c->limit, AT_LEAST);
	memcpy(c->want, c->mean, c->slots * sizeof(*c->want));
	if (fits(c))
		return 0;
	for (int i = 0; i < 2; i++) {
		const uint32_t *then = p->candidate[i];

		if (then == NULL)
			continue;
		then += (size_t)c->layer * c->slots;
		shares_under(p, c, now, then, expert);
		if (fits(c))
			return append(p, h, changed_at(c), then, MOETAP_KNOWN_NOTICED);
	}
	snprintf(p->reason, sizeof(p->reason),
		"layer %u: since the plan of step %lld, which was not acknowledged, loads of slots "
		"are others",
		c->layer, (long long)p->plan_step);
	return append(p, h, p->plan_step + 1, NULL, MOETAP_KNOWN_NOT);
}

/** Whether a layer must be looked at: nobody said since the plan how it is placed. */
static bool silent(const struct history *h, int64_t plan_step)
{
	const struct entry *last = &h->entry[h->count - 1];

	return last->known != MOETAP_KNOWN_NOT && last->step <= plan_step;
}

static int check_layer(struct moetap_placements *p, struct comparison *c, double *expert)
{
	struct history *h = &p->layer[c->layer];
	uint32_t end = moetap_series_steps(c->series), since;

	c->planned = mtl_series_lower(c->series, p->plan_step + 1);
	if (!silent(h, p->plan_step) || end - c->planned < BLOCK)
		return 0;
	since = mtl_series_lower(c->series, h->entry[h->count - 1].step);
	c->first = c->planned > REFERENCE_MAX ? c->planned - REFERENCE_MAX : 0;
	if (c->first < since)
		c->first = since;
	if (c->planned >= c->first + REFERENCE_MIN)
		return compare(p, c, expert);
	snprintf(p->reason, sizeof(p->reason),
		"layer %u: the plan of step %lld was not acknowledged, and no loads from before it "
		"are here",
		c->layer, (long long)p->plan_step);
	return append(p, h, p->plan_step + 1, NULL, MOETAP_KNOWN_NOT);
}

int moetap_placements_check(struct moetap_placements *p, const struct moetap_series *slots,
	struct moetap_error *error)
{
	size_t n = p->shape.slots;
	struct comparison c = {.series = slots, .slots = p->shape.slots};
	double *room;
	int ret = 0;

	if (moetap_series_layers(slots) != p->layers || moetap_series_experts(slots) != n)
		return mtl_fail(error, -EINVAL,
			"the series has %u columns in %u layers, not %zu slots in %u",
			moetap_series_experts(slots), moetap_series_layers(slots), n, p->layers);
	if (!p->planned)
		return 0;
	room = malloc((3 * n + 2 * p->experts) * sizeof(*room));
	if (room == NULL)
		return mtl_fail_memory(error);
	c.mean = room;
	c.want = room + n;
	c.block = room + 2 * n;
	for (c.layer = 0; c.layer < p->layers && ret == 0; c.layer++)
		ret = check_layer(p, &c, room + 3 * n);
	free(room);
	return ret == -ENOMEM ? mtl_fail_memory(error) : ret;
}

/* ---- slots to experts ---- */

int moetap_placements_experts(const struct moetap_placements *p, const struct moetap_series *slots,
	struct moetap_series **experts, struct moetap_error *error)
{
	struct moetap_series *s;
	int ret;

	if (moetap_series_layers(slots) != p->layers ||
		moetap_series_experts(slots) != p->shape.slots)
		return mtl_fail(error, -EINVAL,
			"the series has %u columns in %u layers, not %u slots in %u",
			moetap_series_experts(slots), moetap_series_layers(slots), p->shape.slots,
			p->layers);
	ret = moetap_series_new(p->layers, p->experts, 0, &s, error);
	for (uint32_t i = 0; ret == 0 && i < moetap_series_steps(slots); i++)
		for (uint32_t l = 0; l < p->layers && ret == 0; l++) {
			const uint32_t *held = entry_at(p, l, mtl_series_step(slots, i))->slots;

			if (held != NULL)
				ret = mtl_series_add_slots(s, slots, i, l, held, error);
		}
	if (ret < 0) {
		moetap_series_free(s);
		return ret;
	}
	*experts = s;
	return 0;
}
