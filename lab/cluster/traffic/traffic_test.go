// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// serve answers on a free port.
func serve(t *testing.T) (target string, stop func()) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := free.Addr().(*net.TCPAddr).Port
	require.NoError(t, free.Close())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, port, "server") }()
	target = free.Addr().String()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", target)
		return err == nil && conn.Close() == nil
	}, time.Minute, time.Millisecond)
	return target, func() {
		cancel()
		require.NoError(t, <-done)
	}
}

func TestEveryRequestIsCounted(t *testing.T) {
	target, stop := serve(t)
	defer stop()
	r := Load{Target: target, Rate: 200, Connections: 5, Every: 10 * time.Millisecond, Duration: time.Second, Timeout: 5 * time.Second}.Run(t.Context())
	require.True(t, r.OK(), "%s", r)
	require.Equal(t, 200, r.Requests)
	require.Equal(t, map[string]int{"server": r.Requests}, r.By)
	require.Equal(t, 5, r.Connections)
	require.Greater(t, r.Exchanges, 5)
}

func TestWhatNobodyAnswersFails(t *testing.T) {
	target, stop := serve(t)
	stop()
	r := Load{Target: target, Rate: 100, Connections: 2, Every: 10 * time.Millisecond, Duration: 200 * time.Millisecond, Timeout: time.Second}.Run(t.Context())
	require.False(t, r.OK())
	require.Positive(t, r.Requests)
	require.Equal(t, map[string]int{"dial: connection refused": r.Requests}, r.Errors)
	require.Equal(t, 2, r.Broken)
}

func TestALoadOfNothingIsNotOK(t *testing.T) {
	require.False(t, Load{Target: "127.0.0.1:1", Duration: time.Millisecond, Every: time.Second}.Run(t.Context()).OK())
}
