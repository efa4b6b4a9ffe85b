// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/policygen"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the datapath needs root: run the test as root, or with CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF")
	}
}

// seedOf gives the seed of TEST_SEED, or one by chance, and says which.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(rand.Uint32())
	if text := os.Getenv("TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("TEST_SEED=%d", seed)
	return seed
}

// The tables that policies become, and the programs that read them, answer as
// the model does. WEIR_POLICY_SETS says how many sets of policies are compared.
func TestPolicyTableOfRandomPoliciesIsTheSameFromBothEngines(t *testing.T) {
	needRoot(t)
	sets := 200
	if testing.Short() {
		sets = 40
	}
	if text := os.Getenv("WEIR_POLICY_SETS"); text != "" {
		var err error
		sets, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	seed := seedOf(t)
	ports, err := ParsePorts([]string{"1/tcp", "79/tcp", "80/tcp", "443/tcp", "1023/tcp", "8080/tcp", "65535/tcp", "53/udp", "80/udp", "8081/udp", "80/sctp", "443/sctp", "icmp"})
	require.NoError(t, err)
	begin, allowed, denied := time.Now(), 0, 0
	err = WithPrograms(t.Context(), func(p *Programs) error {
		for set := range sets {
			options := policygen.Options{Nodes: 1, MaxPods: 6, MaxPolicies: 6, OneFamily: set%2 == 0}
			family := IPv4
			if set%4 == 1 {
				family = IPv6
			}
			objs := policygen.Cluster(rand.New(rand.NewPCG(seed, uint64(set))), options)
			one, two, err := bothTables(t.Context(), p, objs, family, ports)
			if err != nil {
				return err
			}
			if one != two {
				objs = policygen.Shrink(objs, func(o *manifest.Objects) bool {
					one, two, err := bothTables(t.Context(), p, o, family, ports)
					return err == nil && one != two
				})
				one, two, _ = bothTables(t.Context(), p, objs, family, ports)
				t.Errorf("TEST_SEED=%d set %d: the engines disagree by %s\nmodel %s\nbpf   %s\n%s", seed, set, family, allowedIn(one), allowedIn(two), policygen.Text(objs))
				return nil
			}
			table := Table{}
			if err := json.Unmarshal([]byte(one), &table); err != nil {
				return err
			}
			allowed, denied = allowed+len(table.Allowed), denied+len(table.Denied)
		}
		return nil
	})
	require.NoError(t, err)
	t.Logf("%d sets, %d flows allowed and %d denied, in %s", sets, allowed, denied, time.Since(begin).Round(time.Millisecond))
	require.Greater(t, allowed, sets, "a comparison in which hardly anything passes says little")
	require.Greater(t, denied, sets, "a comparison in which hardly anything is denied says little")
}

// allowedIn is the part of a table that tells the rest.
func allowedIn(table string) string {
	allowed, _, _ := strings.Cut(table, `,"denied"`)
	return allowed
}

func bothTables(ctx context.Context, p *Programs, objs *manifest.Objects, family string, ports []Port) (fromModel, fromBPF string, err error) {
	all, _ := Pods(objs)
	pods := WithFamily(all, family)
	one, err := ModelTable(ctx, objs, pods, ports)
	if err != nil {
		return "", "", err
	}
	two, err := p.Table(ctx, objs, pods, ports)
	if err != nil {
		return "", "", err
	}
	two.Engine = one.Engine
	a, err := json.Marshal(one)
	if err != nil {
		return "", "", err
	}
	b, err := json.Marshal(two)
	return string(a), string(b), err
}
