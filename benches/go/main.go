// The official Go baseline for `elect`: etcd's own package `concurrency`, used as its documentation
// shows. It leads from Campaign's return until its session is done.
//
//	bench-go one ENDPOINT ELECTION NAME TTL        one candidate, until SIGTERM
//	bench-go claimant ENDPOINT ELECTION NAME TTL   the same, and prints `claims NANOS TOKEN` every ms while it leads
//	bench-go crowd ENDPOINT ELECTION COUNT TTL     many on one client; on SIGUSR1 each gives way in turn
//	bench-go elections ENDPOINT PREFIX COUNT TTL   alone in many elections, from SIGUSR1 until SIGTERM
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/concurrency"
	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench-go:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 5 {
		return errors.New("this belongs to `make bench`; its arguments are in benches/go/main.go")
	}
	how, endpoint, election, who := args[0], args[1], args[2], args[3]
	ttl, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 10 * time.Second})
	if err != nil {
		return err
	}
	defer client.Close()
	switch how {
	case "one", "claimant":
		return one(client, election, who, ttl, how == "claimant")
	}
	count, err := strconv.Atoi(who)
	if err != nil {
		return err
	}
	switch how {
	case "crowd":
		return crowd(client, election, count, ttl)
	case "elections":
		return elections(client, election, count, ttl)
	}
	return errors.New("no such mode: " + how)
}

func one(client *clientv3.Client, name, value string, ttl int, claims bool) error {
	terminate := on(syscall.SIGTERM)
	session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl))
	if err != nil {
		return err
	}
	election := concurrency.NewElection(session, name)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	won := make(chan error, 1)
	go func() { won <- election.Campaign(ctx, value) }()
	select {
	case err := <-won:
		if err != nil {
			return err
		}
	case <-terminate:
		return session.Close()
	}
	fmt.Println("I am the leader.")

	var claim <-chan time.Time
	if claims {
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		claim = ticker.C
	}
	for {
		select {
		case <-session.Done():
			return nil
		default:
		}
		if claims {
			fmt.Println("claims", sinceBoot(), election.Rev())
		}
		select {
		case <-terminate:
			return election.Resign(context.Background())
		case <-session.Done():
			return nil
		case <-claim:
		}
	}
}

func crowd(client *clientv3.Client, name string, count, ttl int) error {
	goOn := on(syscall.SIGUSR1)
	started := make(chan struct{})
	var start time.Time
	results := make(chan error, count)
	wins := make(chan time.Time, count)
	for number := 0; number < count; number++ {
		go func(number int) {
			results <- func() error {
				session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl))
				if err != nil {
					return err
				}
				election := concurrency.NewElection(session, name)
				if err := election.Campaign(context.Background(), strconv.Itoa(number)); err != nil {
					return err
				}
				won := time.Now()
				<-started
				if err := election.Resign(context.Background()); err != nil {
					return err
				}
				session.Orphan()
				wins <- won
				return nil
			}()
		}(number)
	}
	<-goOn
	start = time.Now()
	close(started)
	var last time.Duration
	for number := 0; number < count; number++ {
		if err := <-results; err != nil {
			return err
		}
		if after := (<-wins).Sub(start); after > last {
			last = after
		}
	}
	fmt.Println("handoffs", count-1, last.Nanoseconds())
	return nil
}

func elections(client *clientv3.Client, prefix string, count, ttl int) error {
	goOn, terminate := on(syscall.SIGUSR1), on(syscall.SIGTERM)
	// The connection is made by its first call.
	if _, err := client.Get(context.Background(), prefix); err != nil {
		return err
	}
	fmt.Println("ready")
	<-goOn
	start := time.Now()
	all := make([]*concurrency.Election, count)
	sessions := make([]*concurrency.Session, count)
	err := sideBySide(count, func(number int) error {
		session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl))
		if err != nil {
			return err
		}
		sessions[number] = session
		all[number] = concurrency.NewElection(session, fmt.Sprintf("%s-%d", prefix, number))
		return all[number].Campaign(context.Background(), "bench")
	})
	if err != nil {
		return err
	}
	took := time.Since(start)
	fmt.Println("led", count, took.Nanoseconds(), runtime.NumGoroutine())
	<-terminate
	var kept int64
	err = sideBySide(count, func(number int) error {
		select {
		case <-sessions[number].Done():
			return nil
		default:
		}
		atomic.AddInt64(&kept, 1)
		return all[number].Resign(context.Background())
	})
	fmt.Println("kept", kept)
	return err
}

// sideBySide does it for each number, all at once, and returns one of the errors.
func sideBySide(count int, do func(number int) error) error {
	var running sync.WaitGroup
	failed := make(chan error, count)
	for number := 0; number < count; number++ {
		running.Add(1)
		go func(number int) {
			defer running.Done()
			if err := do(number); err != nil {
				failed <- err
			}
		}(number)
	}
	running.Wait()
	close(failed)
	return <-failed
}

func on(which os.Signal) <-chan os.Signal {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, which)
	return signals
}

// sinceBoot is in nanoseconds, on the clock that all these programs share.
func sinceBoot() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(err)
	}
	return now.Nano()
}
