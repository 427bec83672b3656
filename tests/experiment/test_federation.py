"""What is loaded for a run of own data."""

from feddat.experiment import load_clients


def test_caps_draw_the_same_examples_of_own_data_each_time(make_config):
    whole = {data.name: data for data in load_clients(make_config())}
    capped = {data.name: data for data in load_clients(make_config(train_examples=4, test_examples=2))}
    again = {data.name: data for data in load_clients(make_config(train_examples=4, test_examples=2))}
    for name, data in capped.items():
        assert (len(data.train), len(data.validation), len(data.test)) == (4, 2, 2)
        ids = [example.id for example in data.train]
        assert ids == [example.id for example in again[name].train]
        assert set(ids) <= {example.id for example in whole[name].train}
        assert data.answers == whole[name].answers
