// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
	"github.com/weirnet/weir/vmtest"
)

// alike finds out on which kernels a scenario does the same, from its runs in world
// prog with counters in the programs: the same instructions ran, so the same helpers
// were called, and every hook came to the same decisions and frames. Among such
// kernels the scenario is run in world netns on one, which depends on its name alone:
// each kernel has its part of the scenarios. Where that run does not pass, the
// others' are run too.
//
// What has no run in world prog is run on all kernels, and so is what did not pass
// there, or reached no program.
type alike struct {
	kernels []*vmtest.Kernel
	excuses excuses
	names   []string        // that wait for what world prog tells
	lacking int             // results of world prog that are not there
	told    map[string]told // by name

	standing map[string]map[*vmtest.Kernel][]*vmtest.Kernel // by name, for whom a kernel's run stands
}

// told is what a scenario did on kernels.
type told map[*vmtest.Kernel]sum

type sum [sha256.Size]byte

// newAlike takes those runs out of the plan that wait for what others tell.
func newAlike(kernels []*vmtest.Kernel, runs []scenarios.Result) (a *alike, now []scenarios.Result, err error) {
	a = &alike{kernels: kernels, told: map[string]told{}, standing: map[string]map[*vmtest.Kernel][]*vmtest.Kernel{}}
	if a.excuses, err = newExcuses(); err != nil {
		return nil, nil, err
	}
	for _, r := range runs {
		if r.World == syntax.Prog {
			a.told[r.Scenario] = told{}
			a.lacking += len(kernels)
		}
	}
	for _, r := range runs {
		if r.World == syntax.Netns && a.told[r.Scenario] != nil {
			a.names = append(a.names, r.Scenario)
			continue
		}
		now = append(now, r)
	}
	return a, now, nil
}

// tell notes a result of world prog, and says whether it was the last.
func (a *alike) tell(k *vmtest.Kernel, r *scenarios.Result) bool {
	if sum, ok := a.sumOf(r); ok {
		a.told[r.Scenario][k] = sum
	}
	a.lacking--
	return a.lacking == 0
}

// sumOf sums up what a run did. Not ok: that tells nothing.
func (a *alike) sumOf(r *scenarios.Result) (s sum, ok bool) {
	if r.Outcome != scenarios.Pass {
		return s, false
	}
	hash := sha256.New()
	if err := json.NewEncoder(hash).Encode(r.Outputs); err != nil {
		return s, false
	}
	for _, record := range r.Reach {
		fmt.Fprintln(hash, record.Object, record.Shape)
		err := record.Counts.Each(math.MaxInt, func(counter int, _ uint64) {
			if ok = true; !a.excuses[record.Object][counter] {
				fmt.Fprintln(hash, counter)
			}
		})
		if err != nil {
			return s, false
		}
	}
	return sum(hash.Sum(nil)), ok
}

// classes are the kernels on which a scenario did the same, each in their order.
func (a *alike) classes(name string) (all [][]*vmtest.Kernel) {
	at := map[sum]int{}
	for _, k := range a.kernels {
		s, ok := a.told[name][k]
		if i, found := at[s]; ok && found {
			all[i] = append(all[i], k)
			continue
		}
		if ok {
			at[s] = len(all)
		}
		all = append(all, []*vmtest.Kernel{k})
	}
	return all
}

// decide chooses where the scenarios that wait are run in world netns.
func (a *alike) decide() []unit {
	wanted := map[*vmtest.Kernel][]string{}
	for _, name := range a.names {
		a.standing[name] = map[*vmtest.Kernel][]*vmtest.Kernel{}
		for _, class := range a.classes(name) {
			k := class[crc32.ChecksumIEEE([]byte(name))%uint32(len(class))]
			wanted[k] = append(wanted[k], name)
			for _, other := range class {
				if other != k {
					a.standing[name][k] = append(a.standing[name][k], other)
				}
			}
		}
	}
	return a.units(wanted)
}

// units are part after part of all kernels.
func (a *alike) units(wanted map[*vmtest.Kernel][]string) (units []unit) {
	parts := map[*vmtest.Kernel][][]string{}
	most := 0
	for k, names := range wanted {
		parts[k] = cut(names, chunk[syntax.Netns])
		most = max(most, len(parts[k]))
	}
	for i := range most {
		for _, k := range a.kernels {
			if i < len(parts[k]) {
				units = append(units, unit{kernel: k, world: syntax.Netns, names: parts[k][i]})
			}
		}
	}
	return units
}

// standsFor gives the kernels for which a run stands, once.
func (a *alike) standsFor(k *vmtest.Kernel, r *scenarios.Result) []*vmtest.Kernel {
	if r.World != syntax.Netns {
		return nil
	}
	others := a.standing[r.Scenario][k]
	delete(a.standing[r.Scenario], k)
	return others
}
