// SPDX-License-Identifier: Apache-2.0

package mutate

import "math/rand/v2"

// Sampled takes so many of those that were not chosen already, by chance; the seed
// decides which. With no number it takes all, or none where a change has chosen.
func Sampled[T any](rest []T, number int, seed uint64, chosen bool) []T {
	switch {
	case number > 0:
		rng := rand.New(rand.NewPCG(seed, 0))
		rng.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
		return rest[:min(number, len(rest))]
	case chosen:
		return nil
	}
	return rest
}
