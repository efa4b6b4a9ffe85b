// SPDX-License-Identifier: Apache-2.0

package vmtest_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/vmtest"
)

// wordsEnv has what the payload "service" says when it is ready.
const wordsEnv = "WEIR_VMTEST_WORDS"

func service(t testing.TB, words string) *vmtest.Command {
	c := payload(t, "service")
	c.Env = append(c.Env, wordsEnv+"="+words)
	return c
}

// continued gives a machine's service an input, and returns what it answers.
func continued(t *testing.T, m *vmtest.Machine, input string) (token, echo string) {
	t.Helper()
	var out, stderr bytes.Buffer
	r, err := m.Continue(t.Context(), &vmtest.Command{Stdin: strings.NewReader(input), Stdout: &out, Stderr: &stderr})
	require.NoErrorf(t, err, "%+v", err)
	require.Equalf(t, 0, r.ExitCode, "stderr: %s", &stderr)
	token, echo, _ = strings.Cut(out.String(), " ")
	return token, echo
}

func TestAServiceIsBegunOnceForAllMachines(t *testing.T) {
	everyKernel(t, func(t *testing.T, id string) {
		o := vmtest.Options{Service: service(t, "ready")}
		one, two := start(t, id, o), start(t, id, o)
		oneToken, oneEcho := continued(t, one, "for one")
		twoToken, twoEcho := continued(t, two, "for two")
		require.Equal(t, "for one", oneEcho)
		require.Equal(t, "for two", twoEcho)
		require.Equal(t, oneToken, twoToken, "each machine has a service of its own")
		_, err := one.Continue(t.Context(), &vmtest.Command{})
		require.ErrorIs(t, err, vmtest.ErrNoService)
	})
}

func TestAServiceOfAMachineWithoutASnapshot(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{Service: service(t, "ready"), Cold: true})
	_, echo := continued(t, m, "for one")
	require.Equal(t, "for one", echo)
}

func TestABadServiceIsSaid(t *testing.T) {
	for name, bad := range map[string]struct {
		service *vmtest.Command
		says    string
	}{
		"ends before it is ready": {payload(t, "service-that-ends"), "it ended with code 3 before it was ready: the table is missing"},
		"says more than a line":   {service(t, "ready\nand more"), "more than the line"},
		"has the kernel complain": {payload(t, "service-that-warns"), "the kernel complained"},
		"is not there":            {&vmtest.Command{Path: "/no/such/service"}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := vmtest.Start(t.Context(), find(t, "6.12"), vmtest.Options{Service: bad.service})
			require.ErrorContains(t, err, bad.says)
		})
	}
}

func TestAMachineWithoutAServiceSaysSo(t *testing.T) {
	_, err := start(t, "6.12", vmtest.Options{}).Continue(t.Context(), &vmtest.Command{})
	require.ErrorIs(t, err, vmtest.ErrNoService)
}
