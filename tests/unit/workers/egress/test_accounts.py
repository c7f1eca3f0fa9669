from __future__ import annotations

from workers.egress.accounts import Account, ReachedHost


def test_an_account_remembers_a_hundred_hosts_and_the_sum_of_the_others() -> None:
    account = Account()
    for number in range(150):
        account.count(f"{number}.example", sent=1, received=10)
        account.refuse(f"{number}.example")
    account.count("0.example", received=5)
    traffic = account.traffic()
    assert (len(traffic.reached_hosts), len(traffic.blocked_hosts)) == (101, 100)
    assert traffic.reached_hosts[0] == ReachedHost("0.example", 1, 15)
    assert traffic.reached_hosts[-1] == ReachedHost("other hosts", 50, 500)
