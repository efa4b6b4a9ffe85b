// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// chanceCluster has workloads of one to three pods, some of them with labels that
// others have too, in three namespaces. It gives the workload of each pod.
func chanceCluster(r *rand.Rand) (*manifest.Objects, map[string]string) {
	objs, of := manifest.NewObjects(), map[string]string{}
	objs.Nodes["node"] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}
	addr := netip.MustParseAddr("10.0.0.1")
	for _, ns := range []string{"a", "b", "c"} {
		objs.Namespaces[ns] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{corev1.LabelMetadataName: ns}}}
		for w := range 1 + r.IntN(3) {
			name := fmt.Sprintf("w%d", w)
			for p := range 1 + r.IntN(3) {
				labels := map[string]string{"app": name, "pod-template-hash": "h", "statefulset.kubernetes.io/pod-name": strconv.Itoa(p)}
				switch {
				case w == 1: // like the first, and one more
					labels["app"], labels["tier"] = "w0", "back"
				case w == 2:
					labels = map[string]string{"app.kubernetes.io/name": "w0", "app.kubernetes.io/component": name, "app.kubernetes.io/version": strconv.Itoa(p), "pod-template-hash": "h"}
				}
				yes := true
				pod := &corev1.Pod{
					ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("%s-h-%d", name, p), Labels: labels, OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: name + "-h", Controller: &yes}}},
					Spec:       corev1.PodSpec{NodeName: "node"},
					Status:     corev1.PodStatus{PodIP: addr.String(), PodIPs: []corev1.PodIP{{IP: addr.String()}}},
				}
				addr = addr.Next()
				objs.Pods[manifest.NameOf(pod)] = pod
				of[manifest.NameOf(pod)] = ns + "/" + name
			}
		}
	}
	return objs, of
}

// The programs let through what was recorded, of any pods of the same workloads, and
// nothing else of those that the policies select.
func TestTheProgramsPassWhatWasRecordedAndNothingElse(t *testing.T) {
	needRoot(t)
	seed := seedOf(t)
	r := rand.New(rand.NewPCG(seed, 18))
	ports := []Port{{Number: 53, Protocol: model.ProtocolUDP}, {Number: 80, Protocol: model.ProtocolTCP}, {Number: 81, Protocol: model.ProtocolTCP}, {Number: 443, Protocol: model.ProtocolTCP}}
	require.NoError(t, WithPrograms(t.Context(), func(p *Programs) error {
		allowed, denied := 0, 0
		for range 40 {
			a, d := tryChance(t, p, r, ports)
			allowed, denied = allowed+a, denied+d
		}
		require.NotZero(t, allowed)
		require.NotZero(t, denied)
		return nil
	}))
}

type openedTo struct {
	from, to string // workloads
	port     Port
}

func tryChance(t *testing.T, p *Programs, r *rand.Rand, ports []Port) (allowed, denied int) {
	objs, of := chanceCluster(r)
	names := slices.Sorted(maps.Keys(of))
	recorded, seen := map[openedTo]bool{}, map[string]bool{}
	var record bytes.Buffer
	for n := range 1 + r.IntN(8) {
		from, to, port := names[r.IntN(len(names))], names[r.IntN(len(names))], ports[r.IntN(len(ports))]
		if from == to {
			continue
		}
		recorded[openedTo{of[from], of[to], port}], seen[of[from]], seen[of[to]] = true, true, true
		require.NoError(t, json.NewEncoder(&record).Encode(map[string]any{
			"verdict": "forward", "protocol": port.Protocol.String(), "tcpFlags": map[bool]string{true: "S"}[port.Protocol == model.ProtocolTCP],
			"source": fmt.Sprintf("%s:%d", objs.Pods[from].Status.PodIP, 40000+n), "destination": fmt.Sprintf("%s:%d", objs.Pods[to].Status.PodIP, port.Number),
		}))
	}
	if len(recorded) == 0 {
		return 0, 0
	}
	flows, err := ReadRecord(t.Context(), "record", &record)
	require.NoError(t, err)
	found, err := Suggest(&Input{Objects: objs}, flows, SuggestOptions{Bits4: 32, Bits6: 128})
	require.NoError(t, err)
	require.Empty(t, found.Lost)
	require.Len(t, found.Policies, len(seen))
	for _, policy := range found.Policies {
		require.Empty(t, manifest.Validate(policy))
		objs.NetworkPolicies[manifest.NameOf(policy)] = policy
	}
	pods, _ := Pods(objs)
	table, err := p.Table(t.Context(), objs, pods, ports)
	require.NoError(t, err)
	portOf := func(f *Flow) Port {
		return Port{Number: f.Port, Protocol: map[string]model.Protocol{"tcp": model.ProtocolTCP, "udp": model.ProtocolUDP}[f.Protocol]}
	}
	for i := range table.Allowed {
		f := &table.Allowed[i]
		at := openedTo{of[f.From], of[f.To], portOf(f)}
		require.True(t, recorded[at] || !seen[at.from] && !seen[at.to], "nobody has recorded %v, and it passes", f)
	}
	for i := range table.Denied {
		f := &table.Denied[i]
		require.False(t, recorded[openedTo{of[f.From], of[f.To], portOf(f)}], "%v was recorded, and is dropped", f)
	}
	return len(table.Allowed), len(table.Denied)
}

func TestWorkloadsAreSelectedByLabelsThatTheyKeep(t *testing.T) {
	objs, _ := chanceCluster(rand.New(rand.NewPCG(1, 1)))
	all, _ := workloads(&Input{Objects: objs})
	require.NotEmpty(t, all)
	for _, w := range all {
		require.Equal(t, "Deployment", w.kind)
		for key := range w.matches {
			require.False(t, passing[key], "%s by %s", w, key)
		}
		require.Empty(t, w.also, "%s", w)
	}
}

// Whatever a record holds, it is read or refused by name, and what is suggested for it
// holds.
func FuzzReadRecord(f *testing.F) {
	f.Add([]byte(`{"verdict":"forward","protocol":"tcp","source":"10.0.0.1:1","destination":"10.0.0.2:80","tcpFlags":"S"}`))
	f.Add([]byte(`[{"protocol":"udp","tuple":{"src":"10.0.0.2:40000","dst":"10.0.0.1:80"},"translated":{"src":"[fd00::1]:1","dst":"[fd00::2%a]:2"}}]`))
	f.Add([]byte(`{"missed":3}` + "\n" + `{"verdict":"drop","reason":"policy-egress","protocol":"icmp","source":"[::ffff:1.2.3.4]:1","destination":"224.0.0.1:0"}` + "\n{"))
	f.Add([]byte("\x0a\x0d\x0d\x0a\x1c\x00\x00\x00\x4d\x3c\x2b\x1a"))
	f.Add([]byte("\xd4\xc3\xb2\xa1\x02\x00\x04\x00"))
	objs, _ := chanceCluster(rand.New(rand.NewPCG(1, 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		record, err := ReadRecord(context.Background(), "fuzz", bytes.NewReader(data))
		if err != nil {
			require.True(t, strings.HasPrefix(err.Error(), "read flows: fuzz: "), err)
			return
		}
		seen := map[model.Tuple]bool{}
		for i := range record.Openings {
			o := &record.Openings[i]
			require.True(t, o.Src.IsValid() && o.Dst.IsValid())
			require.False(t, seen[o.key()], "twice: %s", o)
			seen[o.key()] = true
		}
		found, err := Suggest(&Input{Objects: objs}, record, SuggestOptions{Dropped: true, ICMP: true, SkipUnknown: true, Bits4: 32, Bits6: 128})
		if err != nil {
			return
		}
		require.Empty(t, found.Lost)
		for _, policy := range found.Policies {
			require.Empty(t, manifest.Validate(policy))
		}
	})
}
