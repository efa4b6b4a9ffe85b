// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
)

func TestReadVerifierStats(t *testing.T) {
	for name, tt := range map[string]struct {
		log  string
		want ProgramCost
		err  error
	}{
		"one function":               {log: "verification time 1500 usec\nstack depth 120\nprocessed 4211 insns (limit 1000000) max_states_per_insn 4 total_states 98 peak_states 98 mark_read 12\n", want: ProgramCost{Verified: 4211, Seconds: 0.0015}},
		"behind other words":         {log: "func#0 @0\nverification time 7 usec\nstack depth 0+8\nprocessed 2 insns (limit 1000000)", want: ProgramCost{Verified: 2, Seconds: 7e-6}},
		"a log without them":         {log: "0: R1=ctx() R10=fp0\n", err: errNoStats},
		"an empty log":               {err: errNoStats},
		"a number that is no number": {log: "verification time 1 usec\nprocessed 99999999999999999999 insns (limit 1)", err: errNoStats},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readVerifierStats(tt.log)
			require.ErrorIs(t, err, tt.err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestVerifyTellsTheCostOfEveryProgram(t *testing.T) {
	newNode(t)
	pods, err := bpf.LoadContainer()
	require.NoError(t, err)
	uplinks, err := bpf.LoadHost()
	require.NoError(t, err)
	sockets, err := bpf.LoadSocket()
	require.NoError(t, err)
	costs, err := Verify(Options{})
	require.NoError(t, err)
	require.Len(t, costs, len(pods.Programs)+len(uplinks.Programs)+len(sockets.Programs))
	for _, c := range costs {
		require.Positive(t, c.Verified, c.Program)
		require.Positive(t, c.Instructions, c.Program)
		require.Positive(t, c.Seconds, c.Program)
	}
}

func TestCostsAreOfWhatIsLoaded(t *testing.T) {
	newNode(t)
	want, err := Verify(Options{})
	require.NoError(t, err)
	d, err := Open(Options{Stats: true})
	require.NoError(t, err)
	defer d.Close()
	got, err := d.Costs()
	require.NoError(t, err)
	require.Len(t, got, len(want))
	for i := range want {
		want[i].Seconds, got[i].Seconds = 0, 0
	}
	require.Equal(t, want, got)
	require.False(t, d.programs.hasSockets(), "they are of no namespace")
	require.NoError(t, d.Reset())

	silent, err := Open(Options{})
	require.NoError(t, err)
	defer silent.Close()
	_, err = silent.Costs()
	require.ErrorIs(t, err, ErrNoStats)
}

func TestUsesReadsWhatIsLoaded(t *testing.T) {
	newNode(t)
	found, err := probe()
	require.NoError(t, err)
	d, err := Open(Options{})
	require.NoError(t, err)
	defer d.Close()
	for feature, want := range map[string]bool{
		FeatureTCX: false, FeatureCoarseClock: found.coarseClock, FeatureCsumIPv6: found.csumIPv6,
	} {
		got, err := d.Uses(feature)
		require.NoError(t, err)
		require.Equal(t, want, got, feature)
	}
	_, err = d.Uses("magic")
	require.ErrorContains(t, err, "none of that name")
}
